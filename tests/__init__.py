"""The tests of losskit."""
