"""A trained network as an ONNX file; needs the extra onnx."""

import json

import tensorflow as tf

from hvd_imagenet.inference.class_names import ClassNames
from hvd_imagenet.inference.predictor import Predictor

# Of 2022, which runtimes have had time for.
_OPSET = 17


def require_packages() -> None:
    """Raises a ValueError if the extra is not installed."""
    try:
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"--onnx needs packages that are not installed ({error}); install"
            " them by pip install -c"
            f" tools/constraints/tensorflow-{tf.__version__}.txt onnx tf2onnx,"
            " or leave the flag out."
        ) from error


def write(
    predictor: Predictor, path: str, names: ClassNames, image_size: int
) -> None:
    """Writes a network as ONNX.

    Its input is images, [batch, image_size, image_size, 3] float32 RGB, 0 to
    255, its output probabilities, [batch, classes] float32. The metadata has
    the names of the classes, as JSON.

    Args:
        predictor: from such images to logits, in float32.
        path: of the file.
        names: of the classes.
        image_size: side of the images in pixels.

    Raises:
        OSError: it cannot be written.
    """
    import onnx
    import tf2onnx

    # Not by the Keras file's model: the converter takes the constants of its
    # first layer for inputs.
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(predictor(images))}

    side = [image_size, image_size, 3]
    spec = tf.TensorSpec([None, *side], tf.float32, "images")
    proto, _ = tf2onnx.convert.from_function(
        tf.function(answer, [spec]), input_signature=[spec], opset=_OPSET
    )
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    batch.dim_param = "batch"
    classes = [names[number] for number in range(len(names))]
    onnx.helper.set_model_props(proto, {"classes": json.dumps(classes)})
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
