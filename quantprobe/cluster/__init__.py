"""A sweep on many machines: Dask carries the jobs, quantprobe says what they are and where they go."""

from quantprobe.cluster.crew import Crew
from quantprobe.cluster.place import ClusterPlace

__all__ = ["ClusterPlace", "Crew"]
