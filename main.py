"The service for `uvicorn main:app`."

from mlserve.service import asgi

app = asgi()
