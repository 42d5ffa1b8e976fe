"""Makes tests/analysis/fixtures/probes.safetensors with scikit-learn.

    python tests/analysis/make_probes.py

needs numpy, safetensors and scikit-learn. Rows `tall.x` [120, 12] and `wide.x`
[40, 90] with classes `.y`, numbers `.t` and groups `.groups`; of each the
weights and biases, in the units of the rows and in float32, of
LogisticRegression and Ridge under several penalties, with StandardScaler and
without; the order that f_classif and r_regression give the coordinates; AUC and
held-out accuracy for a given split into folds.
"""

import pathlib

import numpy as np
from safetensors.numpy import save_file
from sklearn.feature_selection import f_classif, r_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "probes.safetensors"


def fitted(kind, x, y, l2, standardize):
    """(weights, bias) of rows as they are."""
    scaler = StandardScaler(with_mean=True, with_std=standardize).fit(x)
    z = scaler.transform(x)
    if kind == "logistic":
        it = LogisticRegression(
            C=1 / l2, solver="newton-cholesky", tol=1e-13, max_iter=10_000
        ).fit(z, y)
        w, b = it.coef_[0], it.intercept_[0]
    else:
        it = Ridge(alpha=l2, solver="svd").fit(z, y)
        w, b = it.coef_, it.intercept_
    scale = scaler.scale_ if standardize else np.ones(len(w))
    w = w / scale
    return w, b - w @ scaler.mean_


def main():
    rng = np.random.default_rng(5)
    out = {}
    for name, n, d in (("tall", 120, 12), ("wide", 40, 90)):
        # Correlated coordinates of very different sizes, one of which never
        # changes.
        x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d)
        x = x * np.exp(rng.normal(size=d)) + rng.normal(size=d) * 3
        x[:, 3] = 1.5
        x = x.astype(np.float32)
        w = rng.normal(size=d)
        said = (x - x.mean(0)) / x.std(0).clip(1e-3) @ w / np.sqrt(d)
        y = (said + rng.normal(size=n) > 0.3).astype(np.int32)
        t = (said + 0.3 * rng.normal(size=n)).astype(np.float32)
        out |= {f"{name}.x": x, f"{name}.y": y, f"{name}.t": t}
        x64, t64 = x.astype(np.float64), t.astype(np.float64)
        for kind, target in (("logistic", y), ("ridge", t64)):
            for l2 in (0.01, 1.0, 30.0):
                for standardize in (True, False):
                    weight, bias = fitted(kind, x64, target, l2, standardize)
                    key = f"{name}.{kind}.{l2:g}.{'scaled' if standardize else 'raw'}"
                    out[key] = np.append(weight, bias).astype(np.float32)
        moving = np.delete(np.arange(d), 3)
        by_class = moving[np.argsort(-f_classif(x64[:, moving], y)[0])]
        by_number = moving[np.argsort(-np.abs(r_regression(x64[:, moving], t64)))]
        out[f"{name}.order.logistic"] = by_class.astype(np.int32)
        out[f"{name}.order.ridge"] = by_number.astype(np.int32)
        # Three folds: what was held out, by the probe of the other two.
        folds = np.arange(n) % 3
        accuracy, r2, scores = [], [], np.zeros(n)
        for fold in range(3):
            train, test = folds != fold, folds == fold
            weight, bias = fitted("logistic", x64[train], y[train], 1.0, True)
            scores[test] = x64[test] @ weight + bias
            accuracy.append(((scores[test] > 0) == y[test]).mean())
            weight, bias = fitted("ridge", x64[train], t64[train], 1.0, True)
            r2.append(r2_score(t64[test], x64[test] @ weight + bias))
        out[f"{name}.accuracy"] = np.array(accuracy, dtype=np.float32)
        out[f"{name}.r2"] = np.array(r2, dtype=np.float32)
        out[f"{name}.auc"] = np.array([roc_auc_score(y, scores)], dtype=np.float32)
    save_file(out, FIXTURE)
    print(f"{FIXTURE.name}: {len(out)} arrays, {FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
