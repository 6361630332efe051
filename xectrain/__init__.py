"""Models and what is done with them: three training modes, the trainer, evaluation, inference into ROOT, ONNX."""
