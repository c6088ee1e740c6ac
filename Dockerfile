# Two images from one file: `gateway` (no torch) and `worker` (torch; CUDA comes with torch's own wheels).
# Bases are arguments, so that an operator can put a mirror or a digest in their place.
ARG PYTHON_BASE=python:3.11-slim-bookworm

FROM ${PYTHON_BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md ./

FROM build AS gateway-build
COPY framepack framepack
COPY service service
COPY worker worker
RUN pip install -c constraints.txt '.[gateway]'

FROM build AS worker-build
COPY framepack framepack
COPY service service
COPY worker worker
RUN pip install -c constraints.txt '.[worker]'

FROM ${PYTHON_BASE} AS runtime
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin framepack
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
WORKDIR /tmp
USER 10001

FROM runtime AS gateway
COPY --from=gateway-build /opt/venv /opt/venv
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["python", "-m", "service", "gateway", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
COPY --from=worker-build /opt/venv /opt/venv
# Threads that spin while they wait cost three to six times when two processes share cores.
ENV OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
CMD ["python", "-m", "worker", "supervise"]
