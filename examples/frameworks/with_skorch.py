"""skorch's classifier on scikit-learn's wines, and a search for the best setting of the loss."""

import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from losskit.modules import SoftmaxCrossEntropyLoss

torch.manual_seed(0)
X, y = load_wine(return_X_y=True)
X, y = X.astype(np.float32), y.astype(np.int64)


class MyModule(nn.Module):
    """Logits of the three cultivars."""

    def __init__(self, num_units: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(13, num_units), nn.ReLU(), nn.Linear(num_units, 3))

    def forward(self, X):
        return self.layers(X)


net = NeuralNetClassifier(
    MyModule,
    criterion=SoftmaxCrossEntropyLoss,
    max_epochs=20,
    lr=0.1,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
pipe = make_pipeline(StandardScaler(), net)
params = {"neuralnetclassifier__criterion__label_smoothing": [0.0, 0.2]}
search = GridSearchCV(pipe, params, cv=3, scoring="neg_log_loss", refit=True)
search.fit(X, y)
print(search.best_params_)
print(f"accuracy {search.best_estimator_.score(X, y):.3f}, probabilities {search.predict_proba(X)[0].round(3)}")
