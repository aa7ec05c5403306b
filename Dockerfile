# Thaw's image: every part of the house (`thaw web`, `thaw worker --queues ...`, `thaw migrate`) is a command of it.
#   docker build -t thaw .                                   for processors
#   docker build -t thaw:gpu --build-arg REQUIREMENTS=gpu .  for NVIDIA's
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS=server
ENV PYTHONDONTWRITEBYTECODE=1 UV_LINK_MODE=copy
# tools of this stage; none of them is in the image
RUN python -m venv /build/tools && /build/tools/bin/pip install --quiet --disable-pip-version-check uv==0.13.9
WORKDIR /opt/thaw/source
COPY requirements requirements
RUN /build/tools/bin/uv venv --quiet --python python /opt/thaw/venv
RUN /build/tools/bin/uv pip install --quiet --python /opt/thaw/venv/bin/python --compile-bytecode --require-hashes -r requirements/${REQUIREMENTS}.txt
COPY pyproject.toml README.md LICENSE package.json package-lock.json ./
COPY app app
COPY cli cli
COPY core core
COPY migrations migrations
COPY templates templates
COPY worker worker
# an editable install: templates and static files are used from where they are
RUN /build/tools/bin/uv pip install --quiet --python /opt/thaw/venv/bin/python --no-deps --editable .
# what npm needs comes from a wheel and is thrown away
RUN /opt/thaw/venv/bin/python -m app.vendor_files
RUN /opt/thaw/venv/bin/python -m compileall -q app cli core migrations worker

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Thaw" \
      org.opencontainers.image.description="A folder of labelled images in, an honestly judged image classifier out." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 thaw && useradd --uid 10001 --gid thaw --create-home thaw && install -d -o thaw -g thaw -m 0700 /data
COPY --from=build /opt/thaw /opt/thaw
ENV PATH=/opt/thaw/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    KERAS_HOME=/data/keras \
    THAW_DATA_DIR=/data \
    THAW_HOST=0.0.0.0 \
    THAW_PORT=8000 \
    THAW_OPEN_BROWSER=false
USER thaw
WORKDIR /data
VOLUME /data
EXPOSE 8000
# of `thaw web`; docker-compose.yml switches it off for workers, whose heartbeats the system page shows
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"THAW_PORT\"]}/api/v1/health/live', timeout=4)"]
ENTRYPOINT ["thaw"]
CMD ["web"]
