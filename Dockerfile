# Image for Docker, and by `enroot import dockerd://mlperf-det` for Enroot and Pyxis:
#
#     docker build --build-arg VERSION=$(mlperf-det --version | cut -d " " -f 2) --tag mlperf-det .
#     docker build --build-arg BASE=rocm/pytorch:latest --tag mlperf-det-rocm .
#
# What it is made of stands in images/image.env; nothing is fetched when it runs.
ARG BASE=nvcr.io/nvidia/pytorch:25.04-py3
FROM ${BASE}
ARG BASE
ARG TORCH=keep
ARG TOOLS="numactl dali"
ARG VERSION=

COPY images /opt/mlperf-det/images
COPY src /opt/mlperf-det/src
COPY checks /opt/mlperf-det/checks
COPY systems/local /opt/mlperf-det/systems/local
COPY datasets /opt/mlperf-det/datasets
COPY pyproject.toml README.md LICENSE /opt/mlperf-det/
RUN /opt/mlperf-det/images/install "TORCH=$TORCH" "TOOLS=$TOOLS" && rm -rf /opt/mlperf-det

# Packages in a user's home directory must not replace those of the image.
ENV PYTHONNOUSERSITE=1
LABEL org.opencontainers.image.title="mlperf-det" \
      org.opencontainers.image.description="Acceptance tests for GPU clusters: MLPerf detection training" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.version="${VERSION}"

# Ends the build where something is missing.
RUN mlperf-det self-test
WORKDIR /rfm_workdir
