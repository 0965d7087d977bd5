"""The scan of the gallery in C: optional, so that an installation without a compiler works too."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "match_server.gallery._kernel",
            sources=["match_server/gallery/kernel/module.c"],
            depends=[str(path) for path in Path("match_server/gallery/kernel").glob("*.h")],
            # Equal results on every processor: no fused multiply-add where none is written.
            extra_compile_args=["-O3", "-std=gnu11", "-ffp-contract=off", "-pthread"],
            extra_link_args=["-pthread"],
            py_limited_api=True,
            optional=True,
        )
    ],
)
