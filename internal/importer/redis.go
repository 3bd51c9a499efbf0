package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/redis/go-redis/v9"
	"github.com/shopspring/decimal"
)

// redisBatch is how many keys of Redis are read at once.
const redisBatch = 500

// ReadRedis reads the original's Redis, which may be in use, and changes nothing there.
// seen is told how many of Redis's keys have been looked at. All that belongs to a key or
// account is read at one moment. The original counts a request in several steps, so a moment
// may lie between two of them: the next import puts right what this one has seen of it.
func ReadRedis(ctx context.Context, url string, seen func(keys int)) (Source, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		// The parser's error repeats the URL, and with it the password.
		return Source{}, errors.New("not a Redis URL such as redis://:password@host:6379/0 (special characters of a password are written as %40 for @)")
	}
	redis.SetLogger(quiet{}) // errors come back, and once
	r := redis.NewClient(options)
	defer func() { _ = r.Close() }()
	read := reader{keys: map[string]*Key{}, histories: map[string]*History{}, accounts: map[string]*Account{}, users: map[string]user{}}
	owners := map[string][]string{} // names of Redis's keys, by whom they are of
	known := map[string]bool{}
	for _, pattern := range []string{"apikey:*", "usage:*", "account_usage:*", "user:*", "system:service_rates"} {
		var cursor uint64
		for {
			names, next, err := r.Scan(ctx, cursor, pattern, redisBatch).Result()
			if err != nil {
				return Source{}, fmt.Errorf("reading Redis: %w", err)
			}
			for _, name := range names {
				if owner := ownerOf(name); owner != "" && !known[name] { // one may come twice while Redis moves its table
					known[name] = true
					owners[owner] = append(owners[owner], name)
				}
			}
			seen(len(names))
			if cursor = next; cursor == 0 {
				break
			}
		}
	}
	for _, owner := range ordered(owners) {
		if err := read.take(ctx, r, owners[owner]); err != nil {
			return Source{}, err
		}
	}
	return read.source(), nil
}

// ownerOf is whom a name is of, such as "key ID"; empty: what is not read. Hours are kept
// for a week, and sums over all keys follow from those of each.
func ownerOf(name string) string {
	kind, rest, _ := strings.Cut(name, ":")
	first, after, parted := strings.Cut(rest, ":")
	switch {
	case strings.Contains(name, ":hourly:") || strings.Contains(name, ":index:"):
		return ""
	case kind == "apikey" && !parted && rest != "hash_map":
		return "key " + rest
	case kind == "user" && !parted:
		return "user " + rest
	case name == "system:service_rates":
		return "rates"
	case kind == "account_usage":
		after, _ = strings.CutPrefix(rest, "model:")
		period, of, several := strings.Cut(after, ":")
		if !several {
			return "account " + rest
		}
		_ = period
		id, _, _ := strings.Cut(of, ":")
		return "account " + id
	case kind != "usage" || first == "model" || first == "global" || first == "records" || first == "opus" || first == "keymodel":
		return ""
	case first == "cost":
		period, of, _ := strings.Cut(strings.TrimPrefix(after, "real:"), ":")
		if period == "total" {
			return "key " + of
		}
		id, _ := cutLast(of)
		return "key " + id
	case first == "daily" || first == "monthly":
		id, _ := cutLast(after)
		return "key " + id
	}
	return "key " + first // usage:ID, usage:ID:model:…
}

// quiet is the log of a client whose errors are returned.
type quiet struct{}

// Printf drops a line.
func (quiet) Printf(context.Context, string, ...any) {}

// reader gathers what belongs together.
type reader struct {
	keys      map[string]*Key
	histories map[string]*History // of keys, also of those that are gone
	accounts  map[string]*Account
	users     map[string]user
	notes     []string
}

// user is an owner of keys.
type user struct {
	Username string `json:"username"`
	IsActive bool   `json:"isActive"`
}

// take reads all that belongs to one owner at one moment.
func (r *reader) take(ctx context.Context, from *redis.Client, names []string) error {
	hashes, texts := map[string]*redis.MapStringStringCmd{}, map[string]*redis.StringCmd{}
	_, failed := from.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		for _, name := range names {
			if strings.HasPrefix(name, "usage:cost:") || strings.HasPrefix(name, "user:") || strings.HasPrefix(name, "system:") {
				texts[name] = tx.Get(ctx, name)
			} else {
				hashes[name] = tx.HGetAll(ctx, name)
			}
		}
		return nil
	})
	for name, value := range texts {
		if err := value.Err(); !notOurs(err) {
			return fmt.Errorf("reading %s from Redis: %w", name, err)
		}
		r.text(name, value.Val())
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

// text takes a value that is no hash.
func (r *reader) text(name, value string) {
	if of, cost := strings.CutPrefix(name, "usage:cost:"); cost {
		if d, ok := amount(value); ok {
			r.cost(of, d)
		}
		return
	}
	if id, isUser := strings.CutPrefix(name, "user:"); isUser {
		var u user
		if json.Unmarshal([]byte(value), &u) == nil {
			r.users[id] = u
		}
		return
	}
	var rates struct {
		Rates map[string]decimal.Decimal `json:"rates"`
	}
	if json.Unmarshal([]byte(value), &rates) != nil {
		return
	}
	for _, service := range ordered(rates.Rates) {
		if rate := rates.Rates[service]; !rate.Equal(decimal.NewFromInt(1)) {
			r.notes = append(r.notes, fmt.Sprintf("costs of %s are multiplied by %s there: what is brought is so rated, what is used here costs what the catalogue says", service, rate))
		}
	}
}

// notOurs tells whether a key could be read, is gone by now, or is of another type and so
// none of the original's usage. Any other answer, such as NOPERM, would lose usage.
func notOurs(err error) bool {
	return err == nil || errors.Is(err, redis.Nil) || strings.HasPrefix(err.Error(), "WRONGTYPE")
}

// cost takes daily:ID:2026-11-23, monthly:ID:2026-11 or total:ID.
func (r *reader) cost(name string, d decimal.Decimal) {
	kind, rest, _ := strings.Cut(name, ":")
	switch kind {
	case "total":
		r.history(rest).TotalCost = &d
		return
	case "real":
		if id, total := strings.CutPrefix(rest, "total:"); total {
			r.history(id).RealCost = &d
		}
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

// model takes daily:MODEL:DAY, monthly:MODEL:MONTH or alltime:MODEL. A model's name may
// have colons.
func (h *History) model(name string, fields map[string]string) {
	period, rest, _ := strings.Cut(name, ":")
	model, at := cutLast(rest)
	switch {
	case period == "daily" && isDay(at):
		put(h.ModelDays, h.ModelDayCosts, model, at, fields)
	case period == "monthly" && isMonth(at):
		put(h.ModelMonths, h.ModelMonthCosts, model, at, fields)
	case period == "alltime":
		model = modelName(rest)
		h.ModelTotals[model] = h.ModelTotals[model].plus(readSums(fields, ""))
		if cost, ok := ratedCost(fields); ok {
			h.ModelTotalCosts[model] = h.ModelTotalCosts[model].Add(cost)
		}
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
	s.Notes = r.notes
	for _, id := range ordered(r.keys) {
		k := r.keys[id]
		if k.Fields["id"] == "" || k.Fields["apiKey"] == "" {
			s.Refused = append(s.Refused, Refusal{"key " + id, "its record has no id or no apiKey: the rest of a key that is gone", true})
			continue
		}
		if h := r.histories[id]; h != nil {
			k.History = *h
		} else {
			k.History = newHistory()
		}
		if owner := k.Fields["userId"]; owner != "" {
			if u, here := r.users[owner]; !here || !u.IsActive {
				k.Barred = "its owner's account is disabled there"
			}
		}
		delete(r.histories, id)
		s.Keys = append(s.Keys, *k)
	}
	for _, id := range ordered(r.histories) {
		if r.keys[id] == nil {
			h := r.histories[id]
			s.Refused = append(s.Refused, Refusal{"usage of " + id, fmt.Sprintf("its key is gone: %d requests, %d tokens", h.Total.Requests, h.Total.All()), true})
		}
	}
	for _, id := range ordered(r.accounts) {
		s.Accounts = append(s.Accounts, *r.accounts[id])
	}
	sort.SliceStable(s.Keys, func(i, j int) bool { return s.Keys[i].ID < s.Keys[j].ID })
	return s
}
