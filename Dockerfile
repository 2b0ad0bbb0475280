# The service in a container: docs/operate/deploy.md. Settings are mounted at /app/dub5.toml; keys come from the environment.
# Conversations are kept in the volume /app/data, unless [database] names another place.
FROM python:3.13-slim AS build
WORKDIR /build
COPY . .
RUN install -d -m 700 /data
RUN python -m venv /opt/dub5
RUN /opt/dub5/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[documents,postgres,redis]'

FROM python:3.13-slim
COPY --from=build /opt/dub5 /opt/dub5
ENV PATH=/opt/dub5/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8080
WORKDIR /app
COPY --from=build --chown=10001:10001 /data /app/data
VOLUME /app/data
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz', timeout=2)"]
CMD ["dub5", "serve", "--config", "dub5.toml", "--host", "0.0.0.0"]
