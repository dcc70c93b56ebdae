"""What tests of strategies and adapters need: a toy model that is complete and small enough to read."""
