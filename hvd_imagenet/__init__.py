"""Large-minibatch ImageNet training on TensorFlow, Keras 3 and Horovod."""

__version__ = "0.1.0"
