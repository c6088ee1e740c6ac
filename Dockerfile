# Two images from one file: `gateway` (no torch, small) and `worker` (torch; CUDA comes with torch's own wheels).
# The base is an argument, so that an operator can put a mirror, or the digest that `make digests` read, in its place.
# A pip configuration for an index of your own is handed in as a secret and stays in no layer:
#   docker build --target gateway --secret id=pip,src=$HOME/.config/pip/pip.conf .
ARG PYTHON_BASE=python:3.11-slim-bookworm

FROM ${PYTHON_BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt ./

# What others wrote, as the extras of a project without code yet: a change of ours leaves these, the large layers, as they
# are. Exact versions, of what builds the wheel too, come from constraints.txt.
FROM build AS gateway-build
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    touch README.md && \
    pip install -c constraints.txt setuptools && \
    pip install --no-build-isolation -c constraints.txt '.[gateway,tracing]' && \
    pip uninstall --yes framepack-service pip

FROM build AS worker-build
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    touch README.md && \
    pip install -c constraints.txt setuptools && \
    pip install --no-build-isolation -c constraints.txt '.[worker,tracing]' && \
    pip uninstall --yes framepack-service pip

# What we wrote, the same in both images: the layer that a new release brings.
FROM build AS code
COPY README.md ./
COPY framepack framepack
COPY service service
COPY worker worker
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install -c constraints.txt setuptools && \
    pip install --no-deps --no-build-isolation --target /opt/framepack .

FROM ${PYTHON_BASE} AS runtime
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin framepack \
    && install --directory --owner 10001 --group 10001 /var/lib/framepack
ENV PATH=/opt/venv/bin:/opt/framepack/bin:$PATH PYTHONPATH=/opt/framepack PYTHONSAFEPATH=1 HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 FRAMEPACK_LOG_FORMAT=json
# The root may be read-only: files are written to /tmp (a tmpfs) and, with file:// storage, to its volume.
WORKDIR /tmp
USER 10001

FROM runtime AS gateway
COPY --from=gateway-build /opt/venv /opt/venv
COPY --from=code /opt/framepack /opt/framepack
EXPOSE 8000 9000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["python", "-m", "service", "gateway", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
COPY --from=worker-build /opt/venv /opt/venv
COPY --from=code /opt/framepack /opt/framepack
# Threads that spin while they wait cost three to six times when two processes share cores.
ENV OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0 FRAMEPACK_METRICS_PORT=9000
EXPOSE 9000 9001
# Both lanes' metrics answer, from the first second of loading on.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import os, urllib.request as r; p = int(os.environ['FRAMEPACK_METRICS_PORT']); [r.urlopen(f'http://127.0.0.1:{p + n}/metrics', timeout=2) for n in (0, 1)]"]
CMD ["python", "-m", "worker", "supervise"]
