"""Objectives of a client beside squared errors, each in one file that plugs in through `Model.objective`."""
