"""Build the native kernels; everything else is declared in pyproject.toml.

The extension uses CPython's stable ABI, so that one wheel serves Python 3.10 and later. It is optional: where
there is no C compiler the package installs without it and runs the (slow) NumPy reference.

``FRACBNN_NATIVE=required`` makes a build without the kernels fail: for wheels, and for tests of them.
``FRACBNN_SANITIZE=address,undefined pip install -e .`` builds the kernels with the named sanitizers.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("fracbnn_pynq/native")
compile_args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
link_args: list[str] = []
if sanitize := os.environ.get("FRACBNN_SANITIZE"):
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitize}"]

setup(
    ext_modules=[
        Extension(
            "fracbnn_pynq.native._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.c")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            optional=os.environ.get("FRACBNN_NATIVE") != "required",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
