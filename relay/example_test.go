package relay_test

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/keyledger/keyledger/relay"
)

// A relay of one's own, which asks a service elsewhere.
func Example() { //nolint:testableexamples // it serves until it is killed
	upstreams, err := relay.ReadUpstreams("upstreams.yaml", os.Getenv)
	if err != nil {
		log.Fatal(err)
	}
	ledger, err := relay.Remote(os.Getenv("KEYLEDGER_URL"), os.Getenv("KEYLEDGER_TOKEN"))
	if err != nil {
		log.Fatal(err)
	}
	r, err := relay.New(relay.Config{Ledger: ledger, Upstreams: upstreams, SpoolDir: "spool"})
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: "127.0.0.1:8082", Handler: r, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
