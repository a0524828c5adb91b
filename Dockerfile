# The release image: all programs of IOMesh and the tools they call.
# The image of the tests has the same content; tests/image makes it without
# a container tool. Both install tests/image/packages.txt.
#
#   docker build --build-arg VERSION=v1.0.0 -t iomesh/iomesh:v1.0.0 .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=v0.0.0
ENV CGO_ENABLED=0
RUN set -e; build() { \
      go build -trimpath -ldflags "-s -w -X github.com/iomesh/iomesh/internal/version.version=$VERSION" -o "/out/$1" "$2"; \
    }; \
    build storaged ./storaged; \
    build iomesh-agent ./agent; \
    build iomesh-csi ./csi; \
    build iomesh-attach ./attach; \
    build iomesh-operator ./operator

FROM debian:bookworm-slim
COPY tests/image/packages.txt /tmp/packages.txt
RUN apt-get update \
 && xargs apt-get install -y --no-install-recommends < /tmp/packages.txt \
 && rm -rf /var/lib/apt/lists/* /tmp/packages.txt
COPY --from=build /out/ /usr/local/bin/
