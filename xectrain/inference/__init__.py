"""From events to predictions: `load` a model, read events from shards or ROOT (`sources`), stream rows into ROOT.

A model is a `Predictor` (numbers of an event) or a `SensorPredictor` (sensors that are dead or hidden); which one, its
mode says. May import `modes` and what lies below, and ingest's ROOT reader; nothing of training or evaluation.
"""
