"The service for `uvicorn main:app`."

from mlserve.serve import application

app = application()
