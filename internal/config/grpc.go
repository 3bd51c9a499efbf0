package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
)

// GRPC are the settings of what speaks Envoy's protocols.
type GRPC struct {
	GRPCAddr     string `env:"GRPC_ADDR" envDefault:"off" desc:"Address of Envoy's external authorization and rate limit service over gRPC; it needs no access token, so only proxies may reach it; off: none."`
	GRPCCert     string `env:"GRPC_TLS_CERT" desc:"PEM file with the certificate of GRPC_ADDR; empty: plain text."`
	GRPCKey      string `env:"GRPC_TLS_KEY" desc:"PEM file with its private key."`
	GRPCClientCA string `env:"GRPC_CLIENT_CA" desc:"PEM file with the authorities of clients' certificates; with it, a client without one is refused."`
}

// checkGRPC applies the rules of these settings, and reads their files.
func (c *Loaded) checkGRPC() (wrong []error) {
	if c.GRPCCert == "" && c.GRPCKey == "" {
		if c.GRPCClientCA != "" {
			wrong = append(wrong, errors.New(Prefix+"GRPC_CLIENT_CA needs "+Prefix+"GRPC_TLS_CERT and "+Prefix+"GRPC_TLS_KEY"))
		}
		return wrong
	}
	pair, err := tls.LoadX509KeyPair(c.GRPCCert, c.GRPCKey)
	if err != nil {
		return append(wrong, errors.New(Prefix+"GRPC_TLS_CERT and "+Prefix+"GRPC_TLS_KEY must be the PEM files of a certificate and its key: "+err.Error()))
	}
	c.GRPCTLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.GRPCClientCA == "" {
		return wrong
	}
	pem, err := os.ReadFile(c.GRPCClientCA)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		return append(wrong, errors.New(Prefix+"GRPC_CLIENT_CA must be a PEM file with certificates"))
	}
	c.GRPCTLS.ClientCAs, c.GRPCTLS.ClientAuth = pool, tls.RequireAndVerifyClientCert
	return wrong
}
