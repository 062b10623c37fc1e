"""Clusters on Kubernetes, by the Dask operator."""

from flowgroup.edge.kubernetes.backend import Kubernetes

__all__ = ["Kubernetes"]
