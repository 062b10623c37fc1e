# Two images from one file:
#   agent    the daemon, the relay and the chart's jobs: neither Prefect nor Dask in it
#   runtime  drivers, schedulers and workers; what an author's image may build FROM
# Everything is installed by hash from requirements/*.lock, which are subsets of requirements.lock (`make lock`).
ARG BASE=python:3.11-slim
ARG VERSION=0.1.0

# Where wheels are unpacked: it stays out of the images, and so do pip's caches and the build's own tools.
FROM ${BASE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.lock requirements/
RUN python -m venv /tools && /tools/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/build.lock

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY agent agent
RUN /tools/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Compiled here and never looked at again (unchecked-hash): a read-only root cannot keep what Python compiles, and
# layers may lose the files' times, which Python otherwise compares.
FROM tools AS agent-packages
COPY requirements/agent.lock requirements/
RUN python -m venv --without-pip /opt/flowgroup \
 && python -m pip --python /opt/flowgroup/bin/python install --quiet --no-compile --no-deps --require-hashes -r requirements/agent.lock
COPY --from=wheel /build/dist dist
RUN python -m pip --python /opt/flowgroup/bin/python install --quiet --no-compile --no-deps --no-index dist/*.whl \
 && /opt/flowgroup/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowgroup/lib

# With the system's packages: so `python -m pip install` of a start script finds pip, and Python what it puts below $HOME.
FROM tools AS runtime-packages
COPY requirements/runtime.lock requirements/
RUN python -m venv --without-pip --system-site-packages /opt/flowgroup \
 && python -m pip --python /opt/flowgroup/bin/python install --quiet --no-compile --no-deps --require-hashes -r requirements/runtime.lock \
 && /opt/flowgroup/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowgroup/lib
COPY --from=wheel /build/dist dist
RUN python -m pip --python /opt/flowgroup/bin/python install --quiet --no-compile --no-deps --no-index dist/*.whl \
 && /opt/flowgroup/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowgroup/lib/python3*/site-packages/flowgroup

# What both have: a user without a name's worth of rights, a home that is writable where /tmp is.
FROM ${BASE} AS user
RUN echo 'flowgroup:x:10001:10001:flowgroup:/tmp:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'flowgroup:x:10001:' >>/etc/group \
 && mkdir -p /var/lib/flowgroup && chown 10001:10001 /var/lib/flowgroup
ENV PATH=/opt/flowgroup/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp

FROM user AS runtime
ARG VERSION
LABEL org.opencontainers.image.title="flowgroup runtime" \
      org.opencontainers.image.description="Drivers, schedulers and workers of flowgroup's Dask clusters" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=runtime-packages /opt/flowgroup /opt/flowgroup

# Who `make bench-kubernetes` compares us with: a KubeCluster of dask-kubernetes' made by each run. It starts dask-scheduler and
# dask-worker, which distributed has no more.
FROM runtime AS peer
USER 0:0
COPY requirements/operator.lock /build/
RUN python -m pip --python /opt/flowgroup/bin/python install --quiet --no-cache-dir --no-compile --no-deps --require-hashes -r /build/operator.lock \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowgroup/lib \
 && for name in scheduler worker; do printf '#!/bin/sh\nexec dask %s "$@"\n' $name >/opt/flowgroup/bin/dask-$name; chmod 755 /opt/flowgroup/bin/dask-$name; done
USER 10001:10001

FROM user AS agent
ARG VERSION
LABEL org.opencontainers.image.title="flowgroup agent" \
      org.opencontainers.image.description="flowgroup's daemon and relay" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=agent-packages /opt/flowgroup /opt/flowgroup
ENTRYPOINT ["flowgroup"]
CMD ["--help"]
