"""The region-word alignment against examples worked by hand and against the paper's equations written as loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.alignment import (
    alignment_weights,
    global_similarity,
    local_similarity,
    refined_attention,
    region_word_similarity,
    similarity,
    unit_vectors,
    word_region_similarity,
)
from vlp.batches import Encoded
from vlp.config import AlignmentConfig

# In float64 the Gram form and the loops differ by rounding alone.
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def cosine(x, y):
    return (x @ y) / (x.norm() * y.norm())


def attended_by_loops(query, slots, temperature):
    """Eq. 6 and 7 (or Eq. 10) for one query: the refined weights and the attended vector."""
    logits = torch.stack([cosine(query, slot) / temperature for slot in slots])
    attention = logits.exp() / logits.exp().sum()
    mean = attention.sum() / len(slots)
    refined = [a if a > mean else torch.zeros_like(a) for a in attention]
    if not any(a > mean for a in attention):
        refined = list(attention)
    return torch.stack(refined), sum(a * slot for a, slot in zip(refined, slots, strict=True))


def similarity_by_loops(queries, slots, query_mask, slot_mask, temperature=1.0):
    """Eq. 8 (or Eq. 11) for all pairs, [owner of queries, owner of slots]."""
    rows = []
    for one_queries, one_query_mask in zip(queries, query_mask, strict=True):
        row = []
        for one_slots, one_slot_mask in zip(slots, slot_mask, strict=True):
            real = [slot for slot, keep in zip(one_slots, one_slot_mask, strict=True) if keep]
            terms = [
                cosine(query, attended_by_loops(query, real, temperature)[1])
                for query, keep in zip(one_queries, one_query_mask, strict=True)
                if keep
            ]
            row.append(sum(terms) / len(terms))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def random_case(seed, num_videos=3, num_texts=4, num_regions=5, num_words=4, width=6, dtype=torch.float64):
    """Embeddings of uneven lengths with random masks, at least one real slot each."""
    generator = torch.Generator().manual_seed(seed)

    def embeddings(*shape):
        lengths = 0.5 + 2 * torch.rand(*shape[:2], 1, generator=generator, dtype=dtype)
        return torch.randn(*shape, generator=generator, dtype=dtype) * lengths

    def mask(rows, slots):
        kept = torch.rand(rows, slots, generator=generator) > 0.3
        kept[torch.arange(rows), torch.randint(slots, (rows,), generator=generator)] = True
        return kept

    regions, words = embeddings(num_videos, num_regions, width), embeddings(num_texts, num_words, width)
    return regions, words, mask(num_videos, num_regions), mask(num_texts, num_words)


def both_directions(regions, words, region_mask, word_mask, temperature=1.0):
    masks = {"region_mask": region_mask, "word_mask": word_mask, "attention_temperature": temperature}
    return region_word_similarity(regions, words, **masks), word_region_similarity(regions, words, **masks)


def all_real(*tensors):
    return [torch.ones(tensor.shape[:2], dtype=torch.bool) for tensor in tensors]


class TestByHand:
    def test_every_region_finds_its_word(self):
        # r1 = w1, so attention e^1 : e^0 keeps w1 alone: cosine 1. r2 = (0.6, 0.8): e^0.6 : e^0.8 keeps w2: cosine 0.8.
        regions = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
        words = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        to_words, to_regions = both_directions(regions, words, *all_real(regions, words))
        torch.testing.assert_close(to_words, torch.tensor([[0.9]]))
        # w1: cosines 1 and 0.6 keep r1: 1. w2: cosines 0 and 0.8 keep r2: 0.8.
        torch.testing.assert_close(to_regions, torch.tensor([[0.9]]))

    def test_two_words_of_uneven_length_are_kept(self):
        # Cosines 1, 0.8, -1: e^1, e^0.8, e^-1 = 2.71828, 2.22554, 0.36788, sum 5.31170, attention 0.51175, 0.41899,
        # 0.06926, mean 1/3: the third goes. The second word has length 2: (1.6, 1.2).
        # alpha = 0.51175 (1, 0) + 0.41899 (1.6, 1.2) = (1.18214, 0.50279), cosine 1.18214 / 1.28463 = 0.92022.
        regions = torch.tensor([[[1.0, 0.0]]])
        words = torch.tensor([[[1.0, 0.0], [1.6, 1.2], [-1.0, 0.0]]])
        to_words, _ = both_directions(regions, words, *all_real(regions, words))
        torch.testing.assert_close(to_words, torch.tensor([[0.92022]]), rtol=0, atol=1e-5)

    def test_weights_of_the_same_example(self):
        regions, words = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.6, 1.2], [-1.0, 0.0], [9.0, 9.0]])
        word_mask = torch.tensor([True, True, True, False])
        to_words, to_regions = alignment_weights(regions, words, region_mask=torch.tensor([True]), word_mask=word_mask)
        torch.testing.assert_close(to_words, torch.tensor([[0.51175, 0.41899, 0.0, 0.0]]), rtol=0, atol=1e-5)
        torch.testing.assert_close(to_regions, torch.tensor([[1.0], [1.0], [1.0], [0.0]]))  # a single region is kept

    def test_temperature_sharpens(self):
        # Cosines 1, 0.6 over 0.2: e^5 : e^3 = 0.88080 : 0.11920.
        weights = refined_attention(torch.tensor([1.0, 0.6]), torch.tensor([True, True]), 0.2)
        torch.testing.assert_close(weights, torch.tensor([0.88080, 0.0]), rtol=0, atol=1e-5)

    def test_mean_counts_real_slots_only(self):
        # Over two real slots 0.55 : 0.45 has mean 1/2 and the second goes; a mean over three slots would keep it.
        cosines = torch.tensor([0.2, 0.0, 5.0])
        weights = refined_attention(cosines, torch.tensor([True, True, False]))
        torch.testing.assert_close(weights, torch.tensor([0.549834, 0.0, 0.0]))

    def test_global_similarity_is_the_cosine(self):
        videos, texts = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.0], [0.0, -7.0], [0.0, 0.0]])
        torch.testing.assert_close(global_similarity(videos, texts), torch.tensor([[0.6, -0.8, 0.0]]))


class TestAgainstTheEquations:
    @pytest.mark.parametrize("temperature", [1.0, 0.05, 3.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_values_and_gradients(self, seed, temperature):
        regions, words, region_mask, word_mask = random_case(seed)
        results = []
        for fast in (True, False):
            r, w = regions.clone().requires_grad_(), words.clone().requires_grad_()
            if fast:
                to_words, to_regions = both_directions(r, w, region_mask, word_mask, temperature)
            else:
                to_words = similarity_by_loops(r, w, region_mask, word_mask, temperature)
                to_regions = similarity_by_loops(w, r, word_mask, region_mask, temperature).T
            weighting = torch.linspace(-1, 2, to_words.numel(), dtype=to_words.dtype).view_as(to_words)
            (to_words * weighting + to_regions * weighting.flip(0)).sum().backward()
            results.append((to_words.detach(), to_regions.detach(), r.grad, w.grad))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, **EXACT)

    def test_gradients_by_finite_differences(self):
        regions, words, region_mask, word_mask = random_case(7, num_videos=2, num_texts=2, num_regions=3, num_words=3)

        def forward(r, w):
            return both_directions(r, w, region_mask, word_mask, 0.5)

        assert torch.autograd.gradcheck(forward, (regions.requires_grad_(), words.requires_grad_()))

    def test_float32_agrees_with_float64(self):
        # 1e-5: float32 rounding over sums of 30 x 20 terms; seeds whose attention lies within 1e-7 of the mean would flip.
        case = random_case(11, num_videos=6, num_texts=6, num_regions=30, num_words=20, width=64)
        exact = both_directions(*case, 0.05)
        single = both_directions(case[0].float(), case[1].float(), *case[2:], 0.05)
        for found, expected in zip(single, exact, strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("temperature", [1.0, 0.05])
    def test_weights_are_those_of_the_equations(self, temperature):
        regions, words, region_mask, word_mask = (x[0] for x in random_case(5))
        to_words, to_regions = alignment_weights(
            regions, words, region_mask=region_mask, word_mask=word_mask, attention_temperature=temperature
        )
        for n in region_mask.nonzero().flatten():
            expected, _ = attended_by_loops(regions[n], words[word_mask], temperature)
            torch.testing.assert_close(to_words[n, word_mask], expected, **EXACT)
        for l in word_mask.nonzero().flatten():  # noqa: E741  the paper's letter
            expected, _ = attended_by_loops(words[l], regions[region_mask], temperature)
            torch.testing.assert_close(to_regions[l, region_mask], expected, **EXACT)
        assert not to_words[:, ~word_mask].any()
        assert not to_words[~region_mask].any()
        assert not to_regions[:, ~region_mask].any()
        assert not to_regions[~word_mask].any()


class TestEdges:
    def finite(self, regions, words, region_mask=None, word_mask=None):
        """Both similarities, after checking that they and their gradients are finite."""
        masks = all_real(regions, words)
        region_mask = masks[0] if region_mask is None else region_mask
        word_mask = masks[1] if word_mask is None else word_mask
        regions, words = regions.clone().requires_grad_(), words.clone().requires_grad_()
        scores = both_directions(regions, words, region_mask, word_mask)
        sum(s.sum() for s in scores).backward()
        assert all(torch.isfinite(x).all() for x in (*scores, regions.grad, words.grad))
        return [s.detach() for s in scores]

    @pytest.mark.parametrize(("num_regions", "num_words"), [(1, 1), (1, 3), (3, 1)])
    def test_a_single_slot_is_kept(self, num_regions, num_words):
        regions, words, *_ = random_case(0, num_regions=num_regions, num_words=num_words)
        to_words, to_regions = self.finite(regions, words)
        masks = all_real(regions, words)
        torch.testing.assert_close(to_words, similarity_by_loops(regions, words, *masks), **EXACT)
        torch.testing.assert_close(to_regions, similarity_by_loops(words, regions, *masks[::-1]).T, **EXACT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_identical_words_equal_one_word(self, dtype):
        regions, words, *_ = random_case(1, num_words=1, dtype=dtype)
        one = self.finite(regions, words)
        many = self.finite(regions, words.expand(-1, 7, -1).contiguous())
        torch.testing.assert_close(many[0], one[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(many[1], one[1], rtol=0, atol=1e-6)

    def test_zero_vectors_have_similarity_zero(self):
        regions, words, *_ = random_case(2, dtype=torch.float32)
        to_words, to_regions = self.finite(torch.zeros_like(regions), words)
        assert not to_words.any()
        assert not to_regions.any()
        to_words, to_regions = self.finite(regions, torch.zeros_like(words))
        assert not to_words.any()
        assert not to_regions.any()

    def test_one_zero_word_counts_in_the_mean(self):
        regions = torch.tensor([[[1.0, 0.0]]])
        words = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        _, to_regions = self.finite(regions, words)
        torch.testing.assert_close(to_regions, torch.tensor([[0.5]]))

    def test_words_that_cancel(self):
        # Both words have cosine 0 with the region, so both are kept and add up to nothing.
        regions, words = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
        to_words, _ = self.finite(regions, words)
        assert to_words.item() == 0

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    def test_scale_of_a_caption_or_a_video_does_not_matter(self, scale):
        regions, words, *_ = random_case(3, dtype=torch.float32)
        expected = self.finite(regions, words)
        for found in (self.finite(regions * scale, words), self.finite(regions, words * scale)):
            torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)

    def test_nan_in_padding_reaches_nothing(self):
        regions, words, region_mask, word_mask = random_case(4)
        assert not region_mask.all()
        assert not word_mask.all()
        expected = self.finite(regions, words, region_mask, word_mask)
        regions[~region_mask], words[~word_mask] = float("nan"), float("inf")
        found = self.finite(regions, words, region_mask, word_mask)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_half_precision_is_computed_in_float32(self):
        regions, words, region_mask, word_mask = random_case(6, dtype=torch.float32)
        expected = both_directions(regions.half().float(), words.half().float(), region_mask, word_mask)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = both_directions(regions.half(), words.half(), region_mask, word_mask)
        for f, e in zip(found, expected, strict=True):
            assert f.dtype == torch.float32
            assert torch.equal(f, e)

    @pytest.mark.parametrize(("owner", "row"), [("video", 1), ("caption", 2)])
    def test_an_empty_owner_is_an_error_that_names_it(self, owner, row):
        regions, words, region_mask, word_mask = random_case(0)
        (region_mask if owner == "video" else word_mask)[row] = False
        videos, texts = Encoded(regions[:, 0], regions, region_mask), Encoded(words[:, 0], words, word_mask)
        with pytest.raises(ValueError, match=f"{owner} {row} of"):
            region_word_similarity(regions, words, region_mask=region_mask, word_mask=word_mask)
        with pytest.raises(ValueError, match=f"{owner} {row} of"):
            word_region_similarity(regions, words, region_mask=region_mask, word_mask=word_mask)
        with pytest.raises(ValueError, match=f"{owner} {row} of"):
            local_similarity(videos, texts)

    def test_unit_vectors_of_zero_pass_no_gradient(self):
        vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
        units = unit_vectors(vectors)
        units.sum().backward()
        torch.testing.assert_close(units.detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
        torch.testing.assert_close(vectors.grad, torch.tensor([[0.0, 0.0], [0.032, -0.024]]))


def encoded(seed, **sizes):
    regions, words, region_mask, word_mask = random_case(seed, **sizes)
    return Encoded(regions[:, 0] + 1, regions, region_mask), Encoded(words[:, 0] - 1, words, word_mask)


class TestTiles:
    @pytest.mark.parametrize(("videos_per_tile", "texts_per_tile"), [(1, 1), (2, 3), (3, None), (None, 2), (99, 99)])
    def test_tiles_change_nothing(self, videos_per_tile, texts_per_tile):
        videos, texts = encoded(8, num_videos=5, num_texts=7)
        whole = local_similarity(videos, texts, attention_temperature=0.3)
        tiled = local_similarity(
            videos,
            texts,
            attention_temperature=0.3,
            videos_per_tile=videos_per_tile,
            texts_per_tile=texts_per_tile,
        )
        expected = both_directions(videos.local, texts.local, videos.mask, texts.mask, 0.3)
        for found in (whole, tiled):
            assert found.region_to_word.shape == (5, 7)
            torch.testing.assert_close(found.region_to_word, expected[0], **EXACT)
            torch.testing.assert_close(found.word_to_region, expected[1], **EXACT)

    def test_ranking_similarity_is_the_sum(self):
        videos, texts = encoded(9)
        config = AlignmentConfig(attention_temperature=0.5)
        global_ = global_similarity(videos.global_, texts.global_)
        local = local_similarity(videos, texts, attention_temperature=0.5)
        expected = global_ + local.region_to_word + local.word_to_region
        torch.testing.assert_close(similarity(videos, texts, config), expected)
        torch.testing.assert_close(similarity(videos, texts, config, videos_per_tile=2, texts_per_tile=1), expected)
        torch.testing.assert_close(similarity(videos, texts, AlignmentConfig(use_local=False)), global_)


seeds = st.integers(0, 10_000)
slots = st.integers(1, 6)
laws = settings(max_examples=25, deadline=None)


class TestLaws:
    @laws
    @given(seed=seeds, num_regions=slots, num_words=slots, more_regions=st.integers(0, 4), more_words=st.integers(0, 4))
    def test_padding_changes_nothing(self, seed, num_regions, num_words, more_regions, more_words):
        regions, words, region_mask, word_mask = random_case(seed, num_regions=num_regions, num_words=num_words)

        def pad(vectors, mask, more):
            junk = torch.full((len(vectors), more, vectors.shape[2]), float("nan"), dtype=vectors.dtype)
            return torch.cat([vectors, junk], 1), torch.cat([mask, torch.zeros(len(mask), more, dtype=torch.bool)], 1)

        longer_regions, longer_region_mask = pad(regions, region_mask, more_regions)
        longer_words, longer_word_mask = pad(words, word_mask, more_words)
        found = both_directions(longer_regions, longer_words, longer_region_mask, longer_word_mask)
        for f, e in zip(found, both_directions(regions, words, region_mask, word_mask), strict=True):
            torch.testing.assert_close(f, e, **EXACT)

    @laws
    @given(seed=seeds, num_regions=slots, num_words=slots, temperature=st.floats(0.02, 5))
    def test_bounded_and_symmetric(self, seed, num_regions, num_words, temperature):
        regions, words, region_mask, word_mask = random_case(seed, num_regions=num_regions, num_words=num_words)
        to_words, to_regions = both_directions(regions, words, region_mask, word_mask, temperature)
        assert to_words.abs().max() <= 1 + 1e-9
        assert to_regions.abs().max() <= 1 + 1e-9
        swapped = both_directions(words, regions, word_mask, region_mask, temperature)
        torch.testing.assert_close(swapped[0], to_regions.T, **EXACT)
        torch.testing.assert_close(swapped[1], to_words.T, **EXACT)

    @laws
    @given(seed=seeds, data=st.data())
    def test_order_of_slots_does_not_matter(self, seed, data):
        regions, words, region_mask, word_mask = random_case(seed)
        r = data.draw(st.permutations(range(regions.shape[1])))
        w = data.draw(st.permutations(range(words.shape[1])))
        found = both_directions(regions[:, r], words[:, w], region_mask[:, r], word_mask[:, w])
        for f, e in zip(found, both_directions(regions, words, region_mask, word_mask), strict=True):
            torch.testing.assert_close(f, e, **EXACT)

    @laws
    @given(seed=seeds)
    def test_a_pair_does_not_depend_on_its_batch(self, seed):
        regions, words, region_mask, word_mask = random_case(seed)
        together = both_directions(regions, words, region_mask, word_mask)
        for v, t in itertools.product(range(len(regions)), range(len(words))):
            alone = both_directions(regions[[v]], words[[t]], region_mask[[v]], word_mask[[t]])
            torch.testing.assert_close(alone[0][0, 0], together[0][v, t], **EXACT)
            torch.testing.assert_close(alone[1][0, 0], together[1][v, t], **EXACT)
