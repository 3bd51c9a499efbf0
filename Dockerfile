# syntax=docker/dockerfile:1
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG COMMIT=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" -o /keyledger ./cmd/keyledger

RUN mkdir /spool

# One static binary, no shell, an unprivileged user, nothing written to disk: it
# runs with a read-only root. The certificates are for a DATABASE_URL with TLS.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /keyledger /keyledger
# Where a volume for the relay's journal goes, with the owner that it takes over.
COPY --from=build --chown=65532:65532 /spool /spool
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/keyledger"]
CMD ["serve"]
