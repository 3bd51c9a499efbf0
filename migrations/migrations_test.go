package migrations_test

import (
	"context"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestSmoke(t *testing.T) {
	d := pgtest.New(t)
	if _, err := d.Now(context.Background()); err != nil {
		t.Fatal(err)
	}
}
