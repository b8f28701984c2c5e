"""Tests of the undo journal, the ledger and repair: on the real kernel wherever it can be had."""
