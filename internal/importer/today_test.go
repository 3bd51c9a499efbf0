package importer_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/shopspring/decimal"

	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/cache"
	"github.com/keyledger/keyledger/internal/importer"
	"github.com/keyledger/keyledger/internal/key"
	"github.com/keyledger/keyledger/internal/keys"
	"github.com/keyledger/keyledger/internal/pgtest"
	"github.com/keyledger/keyledger/internal/verify"
)

// today is a source as the Redis of the original of 2026 has it: records with every field
// that it writes, costs by model in millionths, all-time sums by model, users and rates.
const today = `{
 "system:service_rates": {"type": "string", "value": "{\"rates\":{\"claude\":1.0,\"codex\":0.5},\"baseService\":\"claude\"}"},
 "user:u1": {"type": "string", "value": "{\"id\":\"u1\",\"username\":\"ann\",\"isActive\":true}"},
 "user:u2": {"type": "string", "value": "{\"id\":\"u2\",\"username\":\"bob\",\"isActive\":false}"},
 "user:username:ann": {"type": "string", "value": "u1"},
 "apikey:hash_map": {"type": "hash", "value": {"x": "y"}},
 "apikey:11111111-1111-4111-8111-111111111111": {"type": "hash", "value": {"id": "11111111-1111-4111-8111-111111111111", "name": "ann's", "description": "", "apiKey": "HASH1", "tokenLimit": "0", "concurrencyLimit": "0", "rateLimitWindow": "600000", "rateLimitRequests": "0", "rateLimitCost": "0", "isActive": "true", "claudeAccountId": "", "azureOpenaiAccountId": "", "droidAccountId": "", "vertexAccountId": "", "permissions": "[\"claude\",\"droid\",\"claude\"]", "enableModelRestriction": "false", "restrictedModels": "[]", "enableClientRestriction": "true", "allowedClients": "[\"codex_cli\",\"droid_cli\"]", "dailyCostLimit": "0", "totalCostLimit": "0", "weeklyOpusCostLimit": "0", "weeklyResetDay": "1", "weeklyResetHour": "0", "tags": "[\"team\",\"team\",\"LONGTAG\"]", "activationDays": "0", "activationUnit": "days", "expirationMode": "fixed", "isActivated": "true", "activatedAt": "", "createdAt": "2026-08-01T00:00:00.000Z", "lastUsedAt": "", "expiresAt": "2027-12-15", "createdBy": "admin", "userId": "u1", "userUsername": "ann", "icon": "", "serviceRates": "{}", "enableOpenAIResponsesCodexAdaptation": "true", "enableOpenAIResponsesPayloadRules": "false", "openaiResponsesPayloadRules": "[]"}},
 "apikey:22222222-2222-4222-8222-222222222222": {"type": "hash", "value": {"id": "22222222-2222-4222-8222-222222222222", "name": "bob's", "apiKey": "HASH2", "isActive": "true", "createdAt": "2026-08-01T00:00:00.000Z", "userId": "u2", "userUsername": "bob", "azureOpenaiAccountId": "azure-7"}},
 "apikey:33333333-3333-4333-8333-333333333333": {"type": "hash", "value": {"id": "33333333-3333-4333-8333-333333333333", "name": "nobody's", "apiKey": "HASH3", "isActive": "true", "createdAt": "2026-08-01T00:00:00.000Z", "userId": "u3"}},
 "usage:99999999-9999-4999-8999-999999999999": {"type": "hash", "value": {"totalInputTokens": "5", "totalRequests": "1"}},
 "usage:11111111-1111-4111-8111-111111111111": {"type": "hash", "value": {"totalTokens": "360", "totalInputTokens": "300", "totalOutputTokens": "60", "totalAllTokens": "360", "totalRequests": "6"}},
 "usage:daily:11111111-1111-4111-8111-111111111111:2026-11-20": {"type": "hash", "value": {"tokens": "120", "inputTokens": "100", "outputTokens": "20", "allTokens": "120", "requests": "2"}},
 "usage:monthly:11111111-1111-4111-8111-111111111111:2026-11": {"type": "hash", "value": {"tokens": "120", "inputTokens": "100", "outputTokens": "20", "allTokens": "120", "requests": "2"}},
 "usage:11111111-1111-4111-8111-111111111111:model:daily:gpt-5-codex:2026-11-20": {"type": "hash", "value": {"inputTokens": "100", "outputTokens": "20", "allTokens": "120", "requests": "2", "realCostMicro": "1000", "ratedCostMicro": "500"}},
 "usage:11111111-1111-4111-8111-111111111111:model:monthly:gpt-5-codex:2026-11": {"type": "hash", "value": {"inputTokens": "100", "outputTokens": "20", "allTokens": "120", "requests": "2", "realCostMicro": "1000", "ratedCostMicro": "500"}},
 "usage:11111111-1111-4111-8111-111111111111:model:alltime:gpt-5-codex": {"type": "hash", "value": {"inputTokens": "200", "outputTokens": "40", "allTokens": "240", "requests": "4", "realCostMicro": "3000", "ratedCostMicro": "1500"}},
 "usage:11111111-1111-4111-8111-111111111111:model:alltime:claude-sonnet-4-20250514": {"type": "hash", "value": {"inputTokens": "100", "outputTokens": "20", "allTokens": "120", "requests": "2", "realCostMicro": "700", "ratedCostMicro": "700"}},
 "usage:cost:daily:11111111-1111-4111-8111-111111111111:2026-11-20": {"type": "string", "value": "0.0005"},
 "usage:cost:monthly:11111111-1111-4111-8111-111111111111:2026-11": {"type": "string", "value": "0.0005"},
 "usage:cost:total:11111111-1111-4111-8111-111111111111": {"type": "string", "value": "0.0022"},
 "usage:cost:real:total:11111111-1111-4111-8111-111111111111": {"type": "string", "value": "0.0037"},
 "usage:cost:real:daily:11111111-1111-4111-8111-111111111111:2026-11-20": {"type": "string", "value": "0.001"}
}`

func todayDump() []byte {
	text := strings.ReplaceAll(today, "LONGTAG", strings.Repeat("x", 60))
	for _, n := range []string{"1", "2", "3"} {
		text = strings.ReplaceAll(text, "HASH"+n, strings.Repeat("b"+n, 32))
	}
	return []byte(text)
}

// importerOfToday knows the services and clients that the service knows by default.
func importerOfToday(t *testing.T, d *db.DB) *importer.Importer {
	t.Helper()
	return importer.New(optionsOfToday(t, d))
}

func optionsOfToday(t *testing.T, d *db.DB) importer.Options {
	t.Helper()
	o := options(t, d, "UTC")
	o.Rules.Services = append(o.Rules.Services, "droid")
	o.Rules.Clients = append(o.Rules.Clients, "codex_cli", "droid_cli")
	return o
}

// Guarantee: today's original comes over whole: what it says a model cost is kept and what
// that was before its rates is told; old usage keeps its model; what is longer, repeated or
// written in another way than here is taken as it means there, with a note; the keys of
// disabled and of missing users come disabled; owners become tags; fields that every key
// has say nothing; and the rest of a deleted key is no refusal.
func TestToday(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	fill(t, r, todayDump())
	source, err := importer.ReadRedis(ctx, url, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(source.Notes) != 1 || !strings.Contains(source.Notes[0], "costs of codex are multiplied by 0.5") {
		t.Errorf("notes: %q", source.Notes)
	}
	d := pgtest.New(t)
	o := optionsOfToday(t, d)
	im := importer.New(o)
	did := bring(t, im, source)
	for _, want := range []string{
		"create: key ann's (11111111-1111-4111-8111-111111111111)  6 360 0.0022 rateLimitWindow of 600000 minutes is shortened to 527040, a tag is cut to 50 characters, it cost $0.0022 there, and $0.0037 before the rates of services; the rated cost is brought\n",
		"its owner's account is disabled there: it comes disabled, azureOpenaiAccountId (azure-7) has no counterpart here\n",
		"create: key nobody's (33333333-3333-4333-8333-333333333333)  0 0 0 its owner's account is disabled there: it comes disabled\n",
		"gone there: usage of 99999999-9999-4999-8999-999999999999 its key is gone",
	} {
		if !strings.Contains(did, want) {
			t.Errorf("it did not say %q:\n%s", want, did)
		}
	}
	if strings.Contains(did, importer.Refused) {
		t.Errorf("something was refused:\n%s", did)
	}
	if got := pgtest.Scan[string](t, d, "SELECT concat_ws(' ', permissions, allowed_clients, tags, expires_at AT TIME ZONE 'UTC', is_active) FROM api_keys WHERE name = 'ann''s'"); got != "{claude,droid} {codex_cli,droid_cli} {owner:ann,team,"+strings.Repeat("x", 50)+"} 2027-12-15 00:00:00 t" {
		t.Errorf("the key is %s", got)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM api_keys WHERE NOT is_active"); n != 2 {
		t.Errorf("%d keys are disabled, want those of a disabled and of a missing user", n)
	}
	got := pgtest.Scan[string](t, d, `SELECT string_agg(concat_ws(' ', day, model, requests, input_tokens, output_tokens, trim_scale(cost)), '; ' ORDER BY day, model) FROM key_days AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id WHERE k.name = 'ann''s'`)
	if want := "2026-08-01 claude-sonnet-4-20250514 2 100 20 0.0007; 2026-08-01 gpt-5-codex 2 100 20 0.001; 2026-11-20 gpt-5-codex 2 100 20 0.0005"; got != want {
		t.Errorf("its usage is\n%s, want\n%s", got, want)
	}
	agrees(t, d, "UTC")
	if again := bring(t, im, source); strings.Contains(again, importer.Added) || strings.Contains(again, importer.Created) {
		t.Errorf("done again:\n%s", again)
	}
	// A service that is not configured refuses a new key by name, and stops no usage of one
	// that is here.
	o.Rules.Services = []string{"claude"}
	source.Keys[0].History.Total.Requests++
	if again := bring(t, importer.New(o), source); !strings.Contains(again, "add usage: key ann's") || !strings.Contains(again, "KEYLEDGER_SERVICES") {
		t.Errorf("without its service:\n%s", again)
	}
}

// Guarantee: an export says what it lacks: one without usage is warned of loudly, one with
// costs brings them.
func TestExportsOfToday(t *testing.T) {
	t.Parallel()
	export := func(stats string) (importer.Source, string) {
		t.Helper()
		text := fmt.Sprintf(`{"metadata":{"version":"2.0"},"data":{"apiKeys":[{"id":"44444444-4444-4444-8444-444444444444","name":"e","apiKey":"%064x","createdAt":"2026-08-01T00:00:00Z"%s}]}}`, 4, stats)
		s, err := importer.ReadExport(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return s, strings.Join(s.Notes, "; ")
	}
	if _, notes := export(""); !strings.Contains(notes, "THIS EXPORT HAS NO USAGE") {
		t.Errorf("without usage: %s", notes)
	}
	if _, notes := export(`,"usageStats":{"total":{"totalRequests":"1"}}`); !strings.Contains(notes, "has no costs") {
		t.Errorf("without costs: %s", notes)
	}
	s, notes := export(`,"usageStats":{"total":{"totalRequests":"1","totalInputTokens":"10"},"models":{"gpt-4o":{"daily":{"2026-11-20":{"requests":"1","inputTokens":"10"}}}},"costTotal":"0.25","costDaily":{"2026-11-20":0.25},"costMonthly":{"2026-11":"0.25"}}`)
	if strings.Contains(notes, "no costs") {
		t.Errorf("with costs: %s", notes)
	}
	d := pgtest.New(t)
	bring(t, importerOfToday(t, d), s)
	if cost := pgtest.Scan[decimal.Decimal](t, d, "SELECT cost FROM key_counters"); cost.String() != "0.25" {
		t.Errorf("it cost %s", cost)
	}
}

// Guarantee: a secret that was made anew there opens its key here from the next import on,
// and the old one does not, also after it was rehashed here; it is audited and said loudly.
// One that was rotated here stays.
func TestSecretFollows(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t)
	o := optionsOfToday(t, d)
	im := importer.New(o)
	o.DryRun = true
	hasher := pgtest.Hasher()
	v := verify.New(verify.Options{DB: d, Hasher: hasher, Log: slog.New(slog.DiscardHandler), Changes: cache.Deaf})
	code := func(secret string) verify.Code {
		t.Helper()
		got, err := v.Verify(ctx, secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Code
	}
	secrets := []string{hasher.Issue(), hasher.Issue(), hasher.Issue()}
	id := "55555555-5555-4555-8555-555555555555"
	from := func(secret string) importer.Source {
		return importer.Source{Keys: []importer.Key{{ID: id, Fields: map[string]string{"id": id, "name": "s", "isActive": "true", "apiKey": fmt.Sprintf("%x", key.LegacyHash(secret, hasher.Legacy))}}}}
	}
	bring(t, im, from(secrets[0]))
	for range 2 { // the second time it is rehashed
		if code(secrets[0]) != verify.Valid {
			t.Fatal("the imported secret does not open its key")
		}
	}
	if did := bring(t, importer.New(o), from(secrets[1])); !strings.Contains(did, "MADE ANEW THERE") || code(secrets[0]) != verify.Valid {
		t.Errorf("a dry run: %s", did)
	}
	if did := bring(t, im, from(secrets[1])); !strings.Contains(did, "ITS SECRET WAS MADE ANEW THERE") {
		t.Errorf("it said %s", did)
	}
	if a, b := code(secrets[0]), code(secrets[1]); a != verify.NotFound || b != verify.Valid {
		t.Errorf("the old secret is %s, the new one %s", a, b)
	}
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM audit_log WHERE target_type = 'secret' AND action = 'secret.import' AND actor = 'import'"); n < 3 {
		t.Errorf("%d audit rows of secrets", n)
	}
	if did := bring(t, im, from(secrets[1])); strings.Contains(did, "ANEW") {
		t.Errorf("again: %s", did)
	}
	issuer := keys.New(keys.Options{Changes: d, Reads: d, Hasher: hasher})
	rotated, err := issuer.Rotate(ctx, db.Actor{Name: "test"}, uuid.MustParse(id), 3600, keys.Idempotency{})
	if err != nil {
		t.Fatal(err)
	}
	if did := bring(t, im, from(secrets[2])); !strings.Contains(did, "AND HERE TOO") || code(rotated.Secret) != verify.Valid || code(secrets[2]) != verify.NotFound {
		t.Errorf("rotated here: %s", did)
	}
}

// writer counts requests in Redis as the original does: step by step, one command after
// another, in no transaction.
type writer struct {
	r    *redis.Client
	keys []string
}

func (w writer) request(n int) error {
	id, model := w.keys[n%len(w.keys)], []string{"gpt-4o", "claude-sonnet-4-20250514"}[n%2]
	day, month := time.Now().UTC().Format(time.DateOnly), time.Now().UTC().Format("2006-01")
	input, output, micro := int64(1+rand.IntN(1000)), int64(1+rand.IntN(100)), int64(1+rand.IntN(10000))
	for _, of := range []struct{ name, prefix string }{
		{"usage:" + id, "total"}, {"usage:daily:" + id + ":" + day, ""}, {"usage:monthly:" + id + ":" + month, ""},
		{"usage:" + id + ":model:daily:" + model + ":" + day, ""}, {"usage:" + id + ":model:monthly:" + model + ":" + month, ""}, {"usage:" + id + ":model:alltime:" + model, ""},
		{"account_usage:acct", "total"}, {"account_usage:daily:acct:" + day, ""}, {"account_usage:monthly:acct:" + month, ""}, {"account_usage:model:daily:acct:" + model + ":" + day, ""},
	} {
		for _, field := range []struct {
			name string
			n    int64
		}{{"inputTokens", input}, {"outputTokens", output}, {"allTokens", input + output}, {"requests", 1}} {
			name := field.name
			if of.prefix != "" {
				name = of.prefix + strings.ToUpper(name[:1]) + name[1:]
			}
			if err := w.r.HIncrBy(ctx, of.name, name, field.n).Err(); err != nil {
				return err
			}
		}
		if strings.Contains(of.name, ":model:") && strings.HasPrefix(of.name, "usage:") {
			if err := w.r.HIncrBy(ctx, of.name, "ratedCostMicro", micro).Err(); err != nil {
				return err
			}
		}
	}
	for _, of := range []string{"daily:" + id + ":" + day, "monthly:" + id + ":" + month, "total:" + id} {
		if err := w.r.IncrByFloat(ctx, "usage:cost:"+of, float64(micro)/1e6).Err(); err != nil {
			return err
		}
	}
	return nil
}

// Guarantee: imports that repeat while the original counts leave nothing counted twice:
// after the last one, every key's requests, tokens and cost are the source's to the last
// digit, in all, by day and by model, whatever was read between two steps of a request.
func TestWhileItGoesOn(t *testing.T) {
	t.Parallel()
	r, url := startRedis(t)
	w := writer{r: r}
	for i := range 40 {
		id := fmt.Sprintf("66666666-6666-4666-8666-%012d", i)
		w.keys = append(w.keys, id)
		if err := r.HSet(ctx, "apikey:"+id, "id", id, "name", fmt.Sprint("k", i), "apiKey", fmt.Sprintf("%064x", 1000+i), "isActive", "true", "createdAt", "2026-01-01T00:00:00Z").Err(); err != nil {
			t.Fatal(err)
		}
	}
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for lane := range 4 {
		writers.Go(func() {
			for n := lane; writing.Err() == nil; n += 4 {
				if err := w.request(n); err != nil { //nolint:contextcheck // what has begun is finished
					t.Error(err)
					return
				}
			}
		})
	}
	d := pgtest.New(t)
	im := importerOfToday(t, d)
	once := func() string {
		t.Helper()
		source, err := importer.ReadRedis(ctx, url, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		return bring(t, im, source)
	}
	for range 10 {
		once()
	}
	stop()
	writers.Wait()
	last := once()
	if strings.Contains(last, "they are kept") {
		t.Errorf("an excess is left:\n%s", last)
	}
	for _, id := range w.keys {
		total, err := r.HGetAll(ctx, "usage:"+id).Result()
		if err != nil {
			t.Fatal(err)
		}
		cost, err := r.Get(ctx, "usage:cost:total:"+id).Result()
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%s %s %s %s", total["totalRequests"], total["totalInputTokens"], total["totalOutputTokens"], decimal.RequireFromString(cost).Round(12))
		if got := pgtest.Scan[string](t, d, "SELECT concat_ws(' ', requests, input_tokens, output_tokens, trim_scale(cost)) FROM key_counters WHERE key_id = $1", id); got != want {
			t.Errorf("key %s: brought %s, there it is %s", id, got, want)
		}
		for _, model := range []string{"gpt-4o", "claude-sonnet-4-20250514"} {
			all, err := r.HGetAll(ctx, "usage:"+id+":model:alltime:"+model).Result()
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				continue
			}
			want := fmt.Sprintf("%s %s %s", all["requests"], all["inputTokens"], all["outputTokens"])
			if got := pgtest.Scan[string](t, d, "SELECT coalesce((SELECT concat_ws(' ', sum(requests), sum(input_tokens), sum(output_tokens)) FROM key_days WHERE ledger_id = (SELECT ledger_id FROM api_keys WHERE id = $1) AND model = $2), '')", id, model); got != want {
				t.Errorf("key %s, model %s: brought %s, there it is %s", id, model, got, want)
			}
		}
	}
	rolled(t, d)
	if n := pgtest.Scan[int](t, d, "SELECT count(*) FROM usage_daily AS u JOIN api_keys AS k ON k.ledger_id = u.ledger_id WHERE u.model = 'unknown' AND (u.requests, u.input_tokens, u.output_tokens) <> (0, 0, 0)"); n != 0 {
		t.Errorf("%d days have usage of no model", n)
	}
	account, err := r.HGetAll(ctx, "account_usage:acct").Result()
	if err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Scan[string](t, d, "SELECT concat_ws(' ', requests, input_tokens, output_tokens) FROM account_totals WHERE account_id = 'acct'"); got != fmt.Sprintf("%s %s %s", account["totalRequests"], account["totalInputTokens"], account["totalOutputTokens"]) {
		t.Errorf("the account: brought %s, there it is %v", got, account)
	}
	agrees(t, d, "UTC")
	if again := once(); strings.Contains(again, importer.Added) {
		t.Errorf("nothing has changed, and it said\n%s", again)
	}
}
