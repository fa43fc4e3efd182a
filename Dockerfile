# One image for all services and the command line: `python -m order_service`, `choreo provision`. Without what
# `choreo up` would start by itself: Java, Postgres' programs.

FROM python:3.11.14-slim-trixie AS packages
WORKDIR /app
RUN python -m venv /venv
# Only this file decides what is installed, so a change of code leaves this layer as it is.
COPY requirements-service.lock .
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-service.lock
COPY . .
# Editable: the wheel would hold choreo alone, and the shop lies beside it in the source tree.
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps -e .

FROM python:3.11.14-slim-trixie
RUN useradd --system --no-create-home shop
COPY --from=packages /venv /venv
COPY --from=packages /app /app
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER shop
# Of a service: a verb, such as `choreo migrate`, ends before anybody asks for the third time.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s CMD ["python", "-m", "choreo.chassis.observe.serving"]
CMD ["choreo", "--help"]
