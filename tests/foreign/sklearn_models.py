"""Writes models of scikit-learn as ONNX, by skl2onnx: `python sklearn_models.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SEED = 0


def main(folder: Path) -> None:
    digits, diabetes = load_digits(), load_diabetes()
    pictures, rows = digits.data.astype(np.float32), diabetes.data.astype(np.float32)
    models = {
        "mlp_classifier": (MLPClassifier((64, 32), random_state=SEED, max_iter=60), pictures),
        "scaled_pca_mlp": (
            make_pipeline(
                StandardScaler(), PCA(32), MLPClassifier((48,), random_state=SEED, max_iter=60)
            ),
            pictures,
        ),
        "mlp_regressor": (
            MLPRegressor(
                hidden_layer_sizes=(32, 32), activation="tanh", random_state=SEED, max_iter=60
            ),
            rows,
        ),
    }
    for name, (model, samples) in models.items():
        model.fit(samples, digits.target if samples is pictures else diabetes.target)
        options = {"zipmap": False} if hasattr(model, "predict_proba") else {}
        proto = to_onnx(model, samples[:1], options={id(model): options} if options else None)
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
