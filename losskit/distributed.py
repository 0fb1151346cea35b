"""Training on several ranks.

counts = losskit.distributed.counts(criterion, [targets for _, targets in batches])
for inputs, targets in batches:
    criterion(model(inputs), targets, normalizers=counts).total.backward()
optimizer.step()
"""

from losskit.modules.distributed import Counts, counts

__all__ = ["Counts", "counts"]
