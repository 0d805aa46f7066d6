"""Stand-in for XRT's Python module, as far as pynq from 3.1 on uses it; what it does is in ``xrt_core.c``.

As in XRT (``buffer_kbuf`` in xrt_bo.cpp) a buffer's mapping is removed when the last reference to its object goes, even
where somebody has removed it before: whatever lies at these addresses by then is unmapped.
"""

import ctypes
import enum
import os

_core = ctypes.CDLL(os.path.join(os.path.dirname(__file__), "..", "lib", "libxrt_core.so"), use_errno=True)
_core.xclOpen.restype = _core.xclMapBO.restype = ctypes.c_void_p
_core.xclAllocBO.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint]
_core.xclSyncBO.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t]
_core.xclLoadXclBin.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_libc = ctypes.CDLL(None)
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class _Properties(ctypes.Structure):
    _fields_ = (
        ("handle", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("size", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("domain", ctypes.c_uint32),
    )


xrt_info_device = enum.Enum(
    "xrt_info_device",
    "bdf dynamic_regions electrical host m2m max_clock_frequency_mhz mechanical memory name pcie_info thermal vmr",
)


class xclBOSyncDirection(enum.Enum):
    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


class device:
    def __init__(self, index):
        self.handle = _core.xclOpen(index, None, 0)
        if not self.handle:
            raise RuntimeError(f"Could not open device with index '{index}'")

    def get_info(self, what):
        return "edge" if what is xrt_info_device.name else "{}"

    def load_xclbin(self, path):
        with open(path, "rb") as file:
            error = _core.xclLoadXclBin(self.handle, file.read())
        if error:
            raise RuntimeError(f"failed to load xclbin: {os.strerror(-error)}")
        return None


class bo:
    class flags(enum.Enum):
        normal = 0
        cacheable = 1 << 24

    def __init__(self, device, size, flags, group):
        self._handle = _core.xclAllocBO(device.handle, size, 0, 0)
        if self._handle > 1 << 31 or self._handle < 0:
            self._handle = None
            raise RuntimeError("Cannot allocate memory")
        found = _Properties()
        _core.xclGetBOProperties(None, self._handle, ctypes.byref(found))
        self._size, self._address = found.size, found.address
        self._host = _core.xclMapBO(None, self._handle, 1)

    def map(self):
        return memoryview((ctypes.c_ubyte * self._size).from_address(self._host)).cast("B")

    def size(self):
        return self._size

    def address(self):
        return self._address

    def sync(self, direction, size=None, offset=0):
        if _core.xclSyncBO(None, self._handle, direction.value, self._size if size is None else size, offset):
            raise RuntimeError("Invalid argument")

    def __del__(self):
        if self._handle is not None:
            _libc.munmap(self._host, self._size)
            _core.xclFreeBO(None, self._handle)
