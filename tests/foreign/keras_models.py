"""Writes models of Keras as ONNX, by tf2onnx: `python keras_models.py FOLDER`. Random weights."""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

SEED = 0


def residual_network() -> keras.Model:
    """Convolutions with padding "same", batch norms, a residual, and channels last."""
    pixels = keras.Input((32, 32, 3), name="pixels")
    x = keras.layers.Conv2D(32, 3, padding="same", use_bias=False)(pixels)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    y = keras.layers.SeparableConv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.Add()([x, keras.layers.Conv2D(32, 1)(y)])
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="elu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(48, activation="swish")(x)
    return keras.Model(pixels, keras.layers.Dense(10, activation="softmax")(x))


def mobile_network() -> keras.Model:
    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=100)


def recurrent_network() -> keras.Model:
    words = keras.Input((12,), dtype="int32", name="words")
    x = keras.layers.Embedding(200, 24)(words)
    x = keras.layers.LSTM(20, return_sequences=True)(x)
    x = keras.layers.Conv1D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalMaxPooling1D()(x)
    return keras.Model(words, keras.layers.Dense(4)(keras.layers.Dense(16, "tanh")(x)))


def attention_network() -> keras.Model:
    sequence = keras.Input((16, 32), name="sequence")
    x = keras.layers.LayerNormalization()(sequence)
    x = keras.layers.Add()([sequence, keras.layers.MultiHeadAttention(4, 8)(x, x)])
    y = keras.layers.LayerNormalization()(x)
    y = keras.layers.Dense(32)(keras.layers.Dense(64, activation="swish")(y))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, y]))
    return keras.Model(sequence, keras.layers.Dense(5)(x))


def main(folder: Path) -> None:
    for build in (residual_network, mobile_network, recurrent_network, attention_network):
        keras.utils.set_random_seed(SEED)
        model = build()
        generator = np.random.default_rng(SEED)
        model.set_weights(
            [
                np.abs(w) + 0.5 if "variance" in v.name else w + generator.normal(0, 0.05, w.shape)
                for v, w in zip(model.weights, model.get_weights(), strict=True)
            ]
        )
        shapes = [tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs]
        proto, _ = tf2onnx.convert.from_function(
            tf.function(model, input_signature=shapes), shapes, opset=15
        )
        (folder / f"{build.__name__}.onnx").write_bytes(proto.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
