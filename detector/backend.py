"""The one place that imports detectron2; the rest of the package takes its classes from here.

detectron2 v0.6 is used as pure Python. On current libraries two of its import-time assumptions fail, and both are met here, only while
they are missing and only as far as needed (upstream's main needs neither):

- `detectron2._C`, the C extension, is imported by deformable and rotated layers that no C4 model uses: a stub stands in for it and
  fails by name when something is asked of it;
- `PIL.Image.LINEAR`, removed in Pillow 10, is a default argument of one transform: it is lent during the import and taken back.

`python -m detector.backend` runs `check_capability` and prints what it found; the installer relies on it.
"""

import contextlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator

import PIL.Image
import torch

__all__ = [
    "RPN",
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "Box2BoxTransform",
    "Boxes",
    "DetectronMissingError",
    "EventStorage",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "ImageList",
    "Instances",
    "Matcher",
    "ROIPooler",
    "Res5ROIHeads",
    "ResNet",
    "ShapeSpec",
    "StandardRPNHead",
    "check_capability",
]

INSTALL_HINT = 'run `pip install -e ".[detectron2]"` and then `python -m deploy.install_detectron2` in the repository'


class DetectronMissingError(ImportError):
    """detectron2 is not installed, or what is installed cannot be used."""


class _ExtensionStub(types.ModuleType):
    """Stands in for detectron2's C extension: importable, useless."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # import machinery and inspect look for these; absence is the honest answer
            raise AttributeError(name)
        raise AttributeError(
            f"detectron2 is installed without its C extension, which {name!r} needs; a C4 detector does not"
        )


@contextlib.contextmanager
def _known_warnings() -> Iterator[None]:
    """Silence two warnings about detectron2's own code that its user can do nothing about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.script(_method)?` is deprecated", category=FutureWarning)
        warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release", category=UserWarning)
        yield


@contextlib.contextmanager
def _pillow_linear() -> Iterator[None]:
    """Lend `PIL.Image.LINEAR` to detectron2's import where Pillow no longer has it."""
    if hasattr(PIL.Image, "LINEAR"):
        yield
        return
    PIL.Image.LINEAR = PIL.Image.Resampling.BILINEAR
    try:
        yield
    finally:
        del PIL.Image.LINEAR


def _stub_extension() -> None:
    import detectron2

    if "detectron2._C" not in sys.modules and importlib.util.find_spec("detectron2._C") is None:
        stub = _ExtensionStub("detectron2._C", "Stub of detectron2's C extension (see detector/backend.py).")
        sys.modules["detectron2._C"] = stub
        detectron2._C = stub


try:
    _stub_extension()
    with _pillow_linear(), _known_warnings():
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import GeneralizedRCNN
        from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
        from detectron2.modeling.box_regression import Box2BoxTransform
        from detectron2.modeling.matcher import Matcher
        from detectron2.modeling.poolers import ROIPooler
        from detectron2.modeling.proposal_generator.rpn import RPN, StandardRPNHead
        from detectron2.modeling.roi_heads import Res5ROIHeads
        from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
        from detectron2.structures import Boxes, ImageList, Instances
        from detectron2.utils.events import EventStorage
except ImportError as error:
    raise DetectronMissingError(f"detectron2 cannot be imported ({error}); {INSTALL_HINT}") from error


def check_capability() -> str:
    """Build a tiny GeneralizedRCNN with Res5ROIHeads from config on the CPU, train and infer with it once.

    A version number would not do: upstream's main and v0.6 both call themselves 0.6, with and without a C extension.

    Returns:
        One line with the version and place of the detectron2 that passed.
    Raises:
        DetectronMissingError: a loss is not finite or inference returns something else than regions.
    """
    import detectron2

    with _known_warnings():
        model = _tiny_model()
    images = [torch.full((3, 64, 64), 127.0), torch.zeros(3, 64, 64)]
    truth = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]])), gt_classes=torch.tensor([0]))
    with EventStorage(), _known_warnings():
        losses = model.train()([{"image": image, "instances": truth} for image in images])
    if not all(torch.isfinite(loss) for loss in losses.values()):
        raise DetectronMissingError(
            f"detectron2 at {detectron2.__path__[0]} computes losses that are not finite: {losses}"
        )
    with torch.no_grad():
        found = model.eval()([{"image": image, "height": 32, "width": 32} for image in images])
    if len(found) != 2 or not all(isinstance(one["instances"].pred_boxes, Boxes) for one in found):
        raise DetectronMissingError(f"detectron2 at {detectron2.__path__[0]} returns no regions: {found}")
    return f"detectron2 {detectron2.__version__} at {detectron2.__path__[0]} works with torch {torch.__version__}"


def _tiny_model() -> GeneralizedRCNN:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    config = get_cfg()  # its defaults are a C4 Faster R-CNN
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.DEPTH = 50
    config.MODEL.RESNETS.STEM_OUT_CHANNELS = 4
    config.MODEL.RESNETS.WIDTH_PER_GROUP = 2
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    config.MODEL.ROI_HEADS.NUM_CLASSES = 2
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    config.MODEL.RPN.POST_NMS_TOPK_TRAIN = 16
    config.MODEL.RPN.POST_NMS_TOPK_TEST = 8
    return build_model(config)


if __name__ == "__main__":
    print(check_capability())
