"""O'TRAIN training: builds training sets, trains, measures, and exports one ONNX file."""

import logging
import os
import tempfile
from pathlib import Path

import otrain_infer  # noqa: F401 (it settles what ONNX Runtime reads when it is imported)

# TensorFlow reads these once, when it is imported; what the user has set stays.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Libraries look for their settings in the home folder when they are imported, and in a container there may be none.
try:
    Path.home()
except RuntimeError:
    os.environ.setdefault("HOME", tempfile.gettempdir())

# It would complain, when it is imported, of a home folder in which it cannot write.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
