"""Inference: plan -> read -> infer -> blend -> write, with a stated memory bound, resumable at any moment."""

from segcore.inference.stage import predict

__all__ = ["predict"]
