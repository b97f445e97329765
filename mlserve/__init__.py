"From a scikit-learn notebook to a versioned, tested, continuously trained HTTP service."

__version__ = "0.1.0"
