# The Dask operator from its package, for clusters that reach no registry: `deploy/up.sh` takes it unless OPERATOR_IMAGE names another.
ARG BASE=python:3.11-slim
FROM ${BASE} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/operator.lock /build/
RUN python -m venv --without-pip /opt/operator \
 && python -m pip --python /opt/operator/bin/python install --quiet --no-compile --no-deps --require-hashes -r /build/operator.lock \
 && /opt/operator/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/operator/lib

FROM ${BASE}
ENV PATH=/opt/operator/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
COPY --from=packages /opt/operator /opt/operator
# The operator's chart says 1000, and kopf asks for that user's name.
RUN echo 'dask:x:1000:1000:dask:/tmp:/usr/sbin/nologin' >>/etc/passwd
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["kopf", "run", "-m", "dask_kubernetes.operator.controller"]
