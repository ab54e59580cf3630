"""Names for the array types that signatures use."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
FloatArray: TypeAlias = NDArray[np.float64]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
UInt16Array: TypeAlias = NDArray[np.uint16]
BoolArray: TypeAlias = NDArray[np.bool_]
