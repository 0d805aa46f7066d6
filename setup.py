"""Build the native kernels; everything else is declared in pyproject.toml.

The extension uses CPython's stable ABI, so that one wheel serves Python 3.10 and later. It is optional: where
there is no C compiler the package installs without it and runs the (slow) NumPy reference.

``FRACBNN_SANITIZE=address,undefined pip install -e .`` builds the kernels with the named sanitizers.
"""

import os

from setuptools import Extension, setup

NATIVE = "fracbnn_pynq/backends/native"
compile_args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
link_args: list[str] = []
if sanitize := os.environ.get("FRACBNN_SANITIZE"):
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={sanitize}"]

setup(
    ext_modules=[
        Extension(
            "fracbnn_pynq.backends._native",
            sources=[
                f"{NATIVE}/{name}.c"
                for name in (
                    "module",
                    "dispatch",
                    "workspace",
                    "area",
                    "portable",
                    "x86_popcnt",
                    "x86_avx2",
                    "x86_avx512",
                    "arm_neon",
                )
            ],
            depends=[f"{NATIVE}/{name}.h" for name in ("fracbnn", "lanes", "published", "network", "engine")],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
