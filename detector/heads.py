"""Region heads: class, box and attributes of every region, from one pooled feature each.

The attribute head is that of bottom-up attention (Anderson et al. 2018, section 3.1): an embedding of the region's class is joined to
its pooled feature, one hidden layer follows, and a softmax over attributes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.backend import Boxes, ImageList, Instances, Res5ROIHeads
from detector.config import DetectorConfig
from detector.selection import require_finite, select_regions


class AttributeHead(nn.Module):
    """Attribute scores of a region from its class and its pooled feature."""

    def __init__(self, feature_dim: int, config: DetectorConfig) -> None:
        super().__init__()
        heads = config.architecture.heads
        self.num_attributes = config.num_attributes
        self.class_embedding = nn.Embedding(config.num_classes + 1, heads.attribute_embedding)  # + background, the last
        self.hidden = nn.Linear(feature_dim + heads.attribute_embedding, heads.attribute_hidden)
        self.scores = nn.Linear(heads.attribute_hidden, config.num_attributes + heads.no_attribute_output)
        nn.init.normal_(self.class_embedding.weight, std=0.01)
        for layer in (self.hidden, self.scores):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, class_ids: Tensor) -> Tensor:
        """Logits (n, A), or (n, A + 1) with 'no attribute' last, of features (n, D) with classes (n,)."""
        joined = torch.cat([features, self.class_embedding(class_ids)], dim=1)
        return self.scores(F.relu(self.hidden(joined)))

    def best(self, features: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Most probable attribute of each region and its probability, both (n,); 'no attribute' is never chosen."""
        probabilities = self(features, class_ids).softmax(dim=1)[:, : self.num_attributes]
        scores, attribute_ids = probabilities.max(dim=1)
        return attribute_ids, scores

    def loss(self, features: Tensor, class_ids: Tensor, labels: Tensor) -> Tensor:
        """Multi-label softmax cross-entropy: the mean over a region's attributes, then over the regions that have any.

        Args:
            features: (n, D). class_ids: (n,) ground-truth classes. labels: (n, A) 1 where the region has the attribute, else 0.
        """
        logits = self(features, class_ids)
        counts = labels.sum(dim=1)
        labelled = counts > 0
        if not labelled.any():
            return logits.sum() * 0.0  # keeps the head in the graph
        log_probabilities = logits.log_softmax(dim=1)[labelled, : self.num_attributes]
        per_region = -(labels[labelled] * log_probabilities).sum(dim=1) / counts[labelled]
        return per_region.mean()


class AttributeRes5ROIHeads(Res5ROIHeads):
    """detectron2's C4 heads with attributes, features in the output, and selection of regions as DetectorConfig states it."""

    def __init__(self, *, config: DetectorConfig, attribute_head: AttributeHead, **detectron: object) -> None:
        super().__init__(**detectron)
        self.config = config
        self.attribute_head = attribute_head

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Losses when training (`targets` carry gt_boxes, gt_classes and gt_attributes (n, A)), else one Instances per image.

        Fields at inference: pred_boxes, scores, pred_classes, attribute_ids, attribute_scores, features, whole_image.
        """
        maps = [features[name] for name in self.in_features]
        if self.training:
            return [], self._losses(maps, self.label_and_sample_proposals(proposals, targets))
        return self._detect(maps, proposals), {}

    def _losses(self, maps: list[Tensor], sampled: list[Instances]) -> dict[str, Tensor]:
        pooled = self.pool(maps, [one.proposal_boxes for one in sampled])
        losses = self.box_predictor.losses(self.box_predictor(pooled), sampled)
        classes = torch.cat([one.gt_classes for one in sampled])
        foreground = (classes >= 0) & (classes < self.num_classes)
        empty = pooled.new_zeros(0, self.attribute_head.num_attributes)
        labels = [
            one.gt_attributes if one.has("gt_attributes") else empty.new_zeros(len(one), empty.shape[1])
            for one in sampled
        ]
        loss = self.attribute_head.loss(pooled[foreground], classes[foreground], torch.cat(labels)[foreground])
        losses["loss_attribute"] = self.config.architecture.heads.attribute_loss_weight * loss
        return losses

    def pool(self, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
        """(n, D) features of all boxes of all images; at inference through res5 in chunks, which bounds memory."""
        cut = self.pooler(maps, boxes)
        if self.training:
            return self.res5(cut).mean(dim=(2, 3))
        if not len(cut):
            return cut.new_zeros(0, self.config.feature_dim)
        return torch.cat([self.res5(part).mean(dim=(2, 3)) for part in cut.split(self.config.regions_per_chunk)])

    def _detect(self, maps: list[Tensor], proposals: list[Instances]) -> list[Instances]:
        counts = [len(one) for one in proposals]
        pooled = self.pool(maps, [one.proposal_boxes for one in proposals])
        logits, deltas = self.box_predictor(pooled)
        require_finite("class scores", logits)
        require_finite("box deltas", deltas)
        results, sources = [], []
        rows = zip(proposals, logits.softmax(dim=1).split(counts), deltas.split(counts), pooled.split(counts))
        for proposal, probabilities, delta, source in rows:
            boxes = self._candidate_boxes(proposal, delta)
            found, kept = select_regions(boxes, probabilities, proposal.image_size, self.config)
            results.append(found)
            sources.append(source[kept])
        self._describe(maps, results, sources)
        return results

    def _candidate_boxes(self, proposal: Instances, deltas: Tensor) -> Tensor:
        """(n, 1 or C, 4) boxes that may be returned for each proposal."""
        boxes = proposal.proposal_boxes.tensor
        if self.config.architecture.heads.region == "proposal":
            return boxes[:, None]
        refined = self.box_predictor.box2box_transform.apply_deltas(deltas, boxes)
        return refined.view(len(boxes), -1, 4)

    def _describe(self, maps: list[Tensor], results: list[Instances], sources: list[Tensor]) -> None:
        """Add feature, attribute and, where an image has no region, a whole-image region; in place."""
        whole = torch.tensor([len(one) == 0 for one in results])
        for index in whole.nonzero().flatten().tolist():
            results[index] = _whole_image(results[index])
        counts = [len(one) for one in results]
        if self.config.architecture.heads.region == "refined":
            features = self.pool(maps, [one.pred_boxes for one in results])
        else:  # the kept proposals were pooled already
            missing = self.pool(
                [one[whole.to(one.device)] for one in maps], [r.pred_boxes for r, w in zip(results, whole) if w]
            )
            spare = iter(missing.split(1))
            features = torch.cat([next(spare) if empty else source for source, empty in zip(sources, whole)])
        require_finite("features", features)
        self._guess_class(results, features.split(counts))
        attribute_ids, scores = self.attribute_head.best(features, torch.cat([one.pred_classes for one in results]))
        require_finite("attribute scores", scores)
        for one, feature, ids, score in zip(
            results, features.split(counts), attribute_ids.split(counts), scores.split(counts)
        ):
            one.features, one.attribute_ids, one.attribute_scores = feature, ids, score

    def _guess_class(self, results: list[Instances], features: tuple[Tensor, ...]) -> None:
        """Class and score of whole-image regions: the most probable class, however improbable."""
        for one, feature in zip(results, features):
            if one.whole_image.any():
                scores, classes = self.box_predictor(feature)[0].softmax(dim=1)[:, : self.num_classes].max(dim=1)
                one.scores, one.pred_classes = scores, classes


def _whole_image(empty: Instances) -> Instances:
    """One region that covers an image, with room for its class and score."""
    height, width = empty.image_size
    device = empty.scores.device
    region = Instances(empty.image_size)
    region.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, width, height]], device=device))
    region.scores = torch.zeros(1, device=device)
    region.pred_classes = torch.zeros(1, dtype=torch.int64, device=device)
    region.whole_image = torch.ones(1, dtype=torch.bool, device=device)
    return region
