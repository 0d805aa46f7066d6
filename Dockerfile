# The HTTP service on the CPU engine: docker build -t fracbnn . && docker run --rm -p 8000:8000 fracbnn
# Other options follow the image's name, as "serve --help" names them.

FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY . .
RUN FRACBNN_NATIVE=required pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[service]" && rm -r /wheels \
    && useradd --system --create-home --uid 10001 fracbnn
USER fracbnn
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fracbnn"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--drain", "2", "--log-format", "json"]
