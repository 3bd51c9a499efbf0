package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/coalesce"
	"github.com/keyledger/keyledger/internal/config"
	"github.com/keyledger/keyledger/internal/importer"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/migrations"
)

func importCommand() *cobra.Command {
	c := &cobra.Command{Use: "import", Short: "Move in from claude-relay-service, straight on DATABASE_URL",
		Long: `Brings keys and what they used from claude-relay-service. Their secrets go on working once
the service runs with KEYLEDGER_LEGACY_PEPPER set to the ENCRYPTION_KEY of there.

It may be broken off, and run again at any time: what is here already stays as it is, and
only usage that came since is added. See docs/moving-in.md.`}
	c.AddCommand(importExport(), importRedis())
	return c
}

func importExport() *cobra.Command {
	return importFrom("export FILE", "From a JSON export (npm run data:export:enhanced); - reads it from standard input", func(c *cobra.Command, file string) (importer.Source, error) {
		in := c.InOrStdin()
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return importer.Source{}, err
			}
			defer func() { _ = f.Close() }()
			in = f
		}
		return importer.ReadExport(in)
	})
}

func importRedis() *cobra.Command {
	return importFrom("redis URL", "From its Redis, also while it runs: redis://:password@host:6379/0; - reads the URL from standard input", func(c *cobra.Command, url string) (importer.Source, error) {
		if url == "-" {
			raw, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 4096))
			if err != nil {
				return importer.Source{}, err
			}
			url = strings.TrimSpace(string(raw))
		}
		bar := progress(c.ErrOrStderr(), -1, "reading Redis")
		defer func() { _ = bar.Finish() }()
		return importer.ReadRedis(c.Context(), url, func(n int) { _ = bar.Add(n) })
	})
}

// progress is a bar on a terminal, and nothing elsewhere.
func progress(out io.Writer, most int, what string) *progressbar.ProgressBar {
	f, ok := out.(*os.File)
	visible := false
	if ok {
		info, err := f.Stat()
		visible = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return progressbar.NewOptions(most, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(),
		progressbar.OptionSetVisibility(visible), progressbar.OptionClearOnFinish())
}

func importFrom(use, short string, read func(c *cobra.Command, from string) (importer.Source, error)) *cobra.Command {
	var dryRun bool
	var asJSON *bool
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error {
		source, err := read(c, args[0])
		if err != nil {
			return err
		}
		im, d, err := openImporter(c.Context(), dryRun)
		if err != nil {
			return err
		}
		defer d.Close()
		bar := progress(c.ErrOrStderr(), len(source.Keys)+len(source.Accounts)+len(source.Refused), "importing")
		var steps []importer.Step
		err = im.Import(c.Context(), source, func(s importer.Step) {
			steps = append(steps, s)
			_ = bar.Add(1)
		})
		_ = bar.Finish()
		if *asJSON {
			err = errors.Join(err, json.NewEncoder(c.OutOrStdout()).Encode(map[string]any{"dryRun": dryRun, "notes": source.Notes, "steps": steps}))
		} else {
			err = errors.Join(err, printImport(c.OutOrStdout(), dryRun, source.Notes, steps))
		}
		if err != nil {
			return err
		}
		if !dryRun {
			// Autovacuum would do so too, a minute later.
			if _, err := d.RefreshStatistics(c.Context()); err != nil {
				return err
			}
		}
		return refusals(steps)
	}}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, and change nothing")
	asJSON = wantsJSON(c)
	return c
}

// openImporter opens DATABASE_URL, whose schema must be current; the caller closes it.
func openImporter(ctx context.Context, dryRun bool) (*importer.Importer, *db.DB, error) {
	cfg, err := config.LoadForTools(os.Environ())
	if err != nil {
		return nil, nil, fmt.Errorf("the configuration is wrong:\n%w", err)
	}
	m, err := migrations.Open(cfg.MigrationURL())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = m.Close() }()
	if current, needed, err := m.Versions(ctx); err != nil || current < needed {
		return nil, nil, errors.Join(err, errors.New("the database's schema is behind this version. Run: keyledger migrate up"))
	}
	d, err := db.Open(ctx, cfg.DatabaseURL, 2)
	if err != nil {
		return nil, nil, err
	}
	prices := price.New(d, cache.Deaf)
	zone, err := d.Setting(ctx, "timezone")
	if err != nil {
		d.Close()
		if db.Missing(err) {
			err = errors.New("no service has run on this database yet: start one first, with the KEYLEDGER_TIMEZONE that days are to be parted in")
		}
		return nil, nil, err
	}
	return importer.New(importer.Options{DB: d, Prices: prices, Rules: rulesOf(cfg), DryRun: dryRun,
		Usage: usage.New(usage.Options{Fast: d, Patient: d, Prices: prices, Timezone: zone, Writers: coalesce.NewWriters(1)})}), d, nil
}

// printImport prints what was done, what needs a look, and one line of sums.
func printImport(out io.Writer, dryRun bool, notes []string, steps []importer.Step) error {
	did := [2]map[string]int{{}, {}} // of keys, of accounts
	var brought [2]importer.Step     // of keys, of accounts
	t := newTable(out, "WHAT", "DOES", "REQUESTS", "TOKENS", "COST")
	for _, s := range steps {
		of := 0
		if s.Account {
			of = 1
		}
		did[of][s.Action]++
		sum := &brought[of]
		sum.Requests, sum.Tokens, sum.Cost = sum.Requests+s.Requests, sum.Tokens+s.Tokens, sum.Cost.Add(s.Cost)
		if dryRun || s.Action == importer.Refused {
			t.row(s.Subject, s.Action, s.Requests, s.Tokens, "$"+s.Cost.String())
		}
	}
	if dryRun || did[0][importer.Refused]+did[1][importer.Refused] > 0 {
		if err := t.flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	printNotes(out, steps)
	for _, note := range notes {
		fmt.Fprintln(out, "note:", note)
	}
	verb := "done"
	if dryRun {
		verb = "nothing was changed; would be done"
	}
	for i, of := range []string{"keys", "accounts"} {
		n := did[i]
		if i == 0 || len(n) > 0 {
			fmt.Fprintf(out, "%s: %s: %d created, %d got more usage, %d unchanged, %d refused\n", verb, of, n[importer.Created], n[importer.Added], n[importer.Unchanged], n[importer.Refused])
		}
	}
	if gone := did[0][importer.Gone]; gone > 0 {
		fmt.Fprintf(out, "%d remains of keys that were deleted there for good were left\n", gone)
	}
	for i, of := range []string{"keys", "accounts"} {
		if b := brought[i]; i == 0 || b.Requests > 0 {
			fmt.Fprintf(out, "brought of %s: %d requests, %d tokens, $%s\n", of, b.Requests, b.Tokens, b.Cost)
		}
	}
	return nil
}

// fewSubjects is how many are named of those that a note is true of.
const fewSubjects = 3

// value is what differs between notes that say the same.
var value = regexp.MustCompile(`\([^()]*\)|\$[0-9.]+|[0-9]+|"[^"]*"`)

// printNotes prints refusals each, and notes once for all that they are true of: five
// thousand keys have the same few things to tell. --json has all.
func printNotes(out io.Writer, steps []importer.Step) {
	type group struct {
		note     string // the first one
		subjects []string
	}
	groups := map[string]*group{}
	var order []string
	for _, s := range steps {
		for _, note := range s.Notes {
			same := value.ReplaceAllString(note, "")
			if groups[same] == nil {
				groups[same] = &group{note: note}
				order = append(order, same)
			}
			groups[same].subjects = append(groups[same].subjects, plain(s.Subject))
		}
		if s.Why != "" && s.Action == importer.Refused {
			fmt.Fprintf(out, "refused: %s: %s\n", plain(s.Subject), plain(s.Why))
		}
	}
	for _, same := range order {
		g := groups[same]
		if n := len(g.subjects); n > fewSubjects {
			fmt.Fprintf(out, "note: %s, and %d more: such as: %s\n", strings.Join(g.subjects[:fewSubjects], "; "), n-fewSubjects, plain(g.note))
		} else {
			fmt.Fprintf(out, "note: %s: %s\n", strings.Join(g.subjects, "; "), plain(g.note))
		}
	}
}

// refusals make the command fail when there are any, after all else was done.
func refusals(steps []importer.Step) error {
	n := 0
	for _, s := range steps {
		if s.Action == importer.Refused {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d records were refused, all others are fine", n)
	}
	return nil
}
