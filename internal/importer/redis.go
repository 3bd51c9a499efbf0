package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/shopspring/decimal"
)

// redisBatch is how many keys of Redis are read at once.
const redisBatch = 500

// ReadRedis reads the original's Redis, which may be in use. seen is told how many of
// Redis's keys have been looked at. It changes nothing there. What is counted while it
// reads may be missed; a later import brings it.
func ReadRedis(ctx context.Context, url string, seen func(keys int)) (Source, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		// The parser's error repeats the URL, and with it the password.
		return Source{}, errors.New("not a Redis URL such as redis://:password@host:6379/0 (special characters of a password are written as %40 for @)")
	}
	redis.SetLogger(quiet{}) // errors come back, and once
	r := redis.NewClient(options)
	defer func() { _ = r.Close() }()
	read := reader{seen: map[string]bool{}, keys: map[string]*Key{}, histories: map[string]*History{}, accounts: map[string]*Account{}}
	for _, pattern := range []string{"apikey:*", "usage:*", "account_usage:*"} {
		var cursor uint64
		for {
			names, next, err := r.Scan(ctx, cursor, pattern, redisBatch).Result()
			if err != nil {
				return Source{}, fmt.Errorf("reading Redis: %w", err)
			}
			// A name may come twice while Redis moves its table.
			names = slices.DeleteFunc(names, func(name string) bool {
				again := read.seen[name]
				read.seen[name] = true
				return again
			})
			if err := read.take(ctx, r, names); err != nil {
				return Source{}, err
			}
			seen(len(names))
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	return read.source(), nil
}

// quiet is the log of a client whose errors are returned.
type quiet struct{}

// Printf drops a line.
func (quiet) Printf(context.Context, string, ...any) {}

// reader gathers what belongs together.
type reader struct {
	seen      map[string]bool
	keys      map[string]*Key
	histories map[string]*History // of keys, also of those that are gone
	accounts  map[string]*Account
}

// take reads some keys of Redis, at once.
func (r *reader) take(ctx context.Context, from *redis.Client, names []string) error {
	hashes, texts := map[string]*redis.MapStringStringCmd{}, map[string]*redis.StringCmd{}
	pipe := from.Pipeline()
	for _, name := range names {
		switch {
		case strings.Contains(name, ":hourly:") || name == "apikey:hash_map" || strings.HasPrefix(name, "usage:model:"):
			// hours are kept for a week, and sums over all keys follow from those of each
		case strings.HasPrefix(name, "usage:cost:"):
			texts[name] = pipe.Get(ctx, name)
		default:
			hashes[name] = pipe.HGetAll(ctx, name)
		}
	}
	if len(hashes)+len(texts) == 0 {
		return nil
	}
	_, failed := pipe.Exec(ctx)
	for name, value := range texts {
		if err := value.Err(); !notOurs(err) {
			return fmt.Errorf("reading %s from Redis: %w", name, err)
		}
		if d, ok := amount(value.Val()); ok {
			r.cost(strings.TrimPrefix(name, "usage:cost:"), d)
		}
	}
	for name, value := range hashes {
		if err := value.Err(); !notOurs(err) {
			return fmt.Errorf("reading %s from Redis: %w", name, err)
		}
		if fields := value.Val(); len(fields) > 0 {
			r.record(name, fields)
		}
	}
	if !notOurs(failed) {
		return fmt.Errorf("reading Redis: %w", failed)
	}
	return nil
}

// notOurs tells whether a key could be read, is gone by now, or is of another type and so
// none of the original's usage. Any other answer, such as NOPERM, would lose usage.
func notOurs(err error) bool {
	return err == nil || errors.Is(err, redis.Nil) || strings.HasPrefix(err.Error(), "WRONGTYPE")
}

// cost takes daily:ID:2026-11-23, monthly:ID:2026-11 or total:ID.
func (r *reader) cost(name string, d decimal.Decimal) {
	kind, rest, _ := strings.Cut(name, ":")
	if kind == "total" {
		r.history(rest).TotalCost = &d
		return
	}
	id, at := cutLast(rest)
	switch {
	case kind == "daily" && isDay(at):
		r.history(id).DayCosts[at] = d
	case kind == "monthly" && isMonth(at):
		r.history(id).MonthCosts[at] = d
	}
}

// record takes a hash by its name.
func (r *reader) record(name string, fields map[string]string) {
	kind, rest, _ := strings.Cut(name, ":")
	switch kind {
	case "apikey":
		r.keys[rest] = &Key{ID: rest, Fields: fields}
	case "usage":
		// usage:ID:model:daily:MODEL:DAY, usage:daily:ID:DAY, usage:ID
		if id, of, found := strings.Cut(rest, ":model:"); found {
			r.history(id).model(of, fields)
		} else {
			r.plain(rest, fields, func(id string) *History { return r.history(id) })
		}
	case "account_usage":
		// account_usage:model:daily:ID:MODEL:DAY, account_usage:daily:ID:DAY, account_usage:ID
		if of, found := strings.CutPrefix(rest, "model:"); found {
			period, of, _ := strings.Cut(of, ":")
			id, of, _ := strings.Cut(of, ":")
			r.account(id).model(period+":"+of, fields)
		} else {
			r.plain(rest, fields, r.account)
		}
	}
}

// plain takes daily:ID:DAY, monthly:ID:MONTH, or ID.
func (r *reader) plain(name string, fields map[string]string, of func(id string) *History) {
	period, rest, found := strings.Cut(name, ":")
	if !found {
		of(name).Total = readSums(fields, "total")
		return
	}
	id, at := cutLast(rest)
	switch {
	case period == "daily" && isDay(at):
		of(id).Days[at] = readSums(fields, "")
	case period == "monthly" && isMonth(at):
		of(id).Months[at] = readSums(fields, "")
	}
}

// model takes daily:MODEL:DAY or monthly:MODEL:MONTH. A model's name may have colons.
func (h *History) model(name string, fields map[string]string) {
	period, rest, _ := strings.Cut(name, ":")
	model, at := cutLast(rest)
	switch {
	case period == "daily" && isDay(at):
		put(h.ModelDays, model, at, readSums(fields, ""))
	case period == "monthly" && isMonth(at):
		put(h.ModelMonths, model, at, readSums(fields, ""))
	}
}

func cutLast(text string) (before, after string) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return text, ""
	}
	return text[:i], text[i+1:]
}

func (r *reader) history(id string) *History {
	if r.histories[id] == nil {
		r.histories[id] = new(newHistory())
	}
	return r.histories[id]
}

func (r *reader) account(id string) *History {
	if r.accounts[id] == nil {
		r.accounts[id] = &Account{ID: id, History: newHistory()}
	}
	return &r.accounts[id].History
}

// source is all that was gathered, in order of ids.
func (r *reader) source() (s Source) {
	for _, id := range ordered(r.keys) {
		k := r.keys[id]
		if k.Fields["id"] == "" || k.Fields["apiKey"] == "" {
			s.Refused = append(s.Refused, Refusal{"key " + id, "its record has no id or no apiKey: the rest of a key that is gone"})
			continue
		}
		if h := r.histories[id]; h != nil {
			k.History = *h
		} else {
			k.History = newHistory()
		}
		delete(r.histories, id)
		s.Keys = append(s.Keys, *k)
	}
	for _, id := range ordered(r.histories) {
		if r.keys[id] == nil {
			h := r.histories[id]
			s.Refused = append(s.Refused, Refusal{"usage of " + id, fmt.Sprintf("its key is gone: %d requests, %d tokens", h.Total.Requests, h.Total.All())})
		}
	}
	for _, id := range ordered(r.accounts) {
		s.Accounts = append(s.Accounts, *r.accounts[id])
	}
	sort.SliceStable(s.Keys, func(i, j int) bool { return s.Keys[i].ID < s.Keys[j].ID })
	return s
}
