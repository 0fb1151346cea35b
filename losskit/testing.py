"""Checks that a loss keeps the contract of losskit; for the tests of those who write losses of their own.

    from losskit.testing import check_loss

    def test_my_loss_keeps_the_contract():
        check_loss(MyLoss)

`CHECKS` has the points of the contract by name, for tests that want one result per point.
"""

from losskit.modules.batches import Batch
from losskit.modules.contract import CHECKS, ContractError, Subject, check_loss, isolated_registry

__all__ = ["CHECKS", "Batch", "ContractError", "Subject", "check_loss", "isolated_registry"]
