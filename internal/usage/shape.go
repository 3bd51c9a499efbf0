// Package usage turns what providers report into ledger rows: it reads the four
// shapes of usage objects, prices them, records them exactly once, and adds up
// what keys and accounts used.
package usage

import (
	"fmt"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/keyledger/keyledger/internal/field"
)

// Counts are the tokens of one request, each token in one count only, but that
// Ephemeral1h is a part of CacheCreate.
type Counts struct {
	Input       int64
	Output      int64
	CacheCreate int64
	CacheRead   int64
	Ephemeral1h int64
}

// Ephemeral5m is the other part of CacheCreate: what was written for 5 minutes.
func (c Counts) Ephemeral5m() int64 { return c.CacheCreate - c.Ephemeral1h }

// Apart takes the tokens of cache out of the input, for a sender who counts them in both. One
// who does not has more of them than input, and is left as he is.
func (c Counts) Apart() Counts {
	if c.CacheCreate >= 0 && c.CacheRead >= 0 && c.CacheCreate <= c.Input && c.CacheRead <= c.Input-c.CacheCreate {
		c.Input -= c.CacheCreate + c.CacheRead
	}
	return c
}

// JSON is these counts as a usage object of Anthropic's, which has room for all of them.
func (c Counts) JSON() jsontext.Value {
	return jsontext.Value(fmt.Sprintf(`{"input_tokens":%d,"output_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d}}`,
		c.Input, c.Output, c.CacheCreate, c.CacheRead, c.Ephemeral5m(), c.Ephemeral1h))
}

// MaxCount is the largest count accepted: 2^53, up to which every JSON
// implementation reads whole numbers exactly.
const MaxCount = 1 << 53

// reader reads counts out of a usage object and gathers what is wrong.
type reader struct {
	path  string
	wrong []field.Error
}

// count reads one member; one that is missing or null is 0.
func (r *reader) count(members map[string]jsontext.Value, name string) int64 {
	raw, ok := members[name]
	if !ok || raw.Kind() == 'n' {
		return 0
	}
	fail := func(message string) int64 {
		r.wrong = append(r.wrong, field.Error{Field: r.path + "." + name, Message: message})
		return 0
	}
	if raw.Kind() != '0' {
		return fail("must be a whole number")
	}
	text := string(raw)
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case strings.HasPrefix(text, "-") && text != "-0":
		return fail("must not be negative")
	case err != nil && strings.ContainsAny(text, ".eE"):
		return fail("must be a whole number, written without a point or an exponent")
	case err != nil || n > MaxCount:
		return fail("must be at most 9007199254740992 (2^53)")
	}
	return n
}

// object reads a member that is an object itself; missing or null is empty.
func (r *reader) object(members map[string]jsontext.Value, name string) map[string]jsontext.Value {
	raw, ok := members[name]
	if !ok || raw.Kind() == 'n' {
		return nil
	}
	inner := map[string]jsontext.Value{}
	if raw.Kind() != '{' || jsonv2.Unmarshal(raw, &inner) != nil {
		r.wrong = append(r.wrong, field.Error{Field: r.path + "." + name, Message: "must be an object"})
	}
	return inner
}

// shape is one provider's way to report usage.
type shape struct {
	name  string
	known []string // members that make an object one of this shape
	read  func(*reader, map[string]jsontext.Value) Counts
}

// shapes, in the order in which they are tried.
// Sources: https://platform.claude.com/docs/en/api/messages,
// https://platform.openai.com/docs/api-reference,
// https://ai.google.dev/api/generate-content#UsageMetadata,
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
var shapes = []shape{
	{"OpenAI responses", []string{"input_tokens_details"}, readResponses},
	{"Anthropic", []string{"input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation"}, readAnthropic},
	{"OpenAI chat", []string{"prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details"}, readChat},
	{"Gemini", []string{"promptTokenCount", "candidatesTokenCount", "cachedContentTokenCount", "thoughtsTokenCount", "toolUsePromptTokenCount"}, readGemini},
	{"Bedrock", []string{"inputTokens", "outputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"}, readBedrock},
}

// ReadCounts reads a provider's usage object. Members it does not know are
// ignored, null is 0 and {} is all zeros; an object with none of the known
// members, or with members of two shapes that do not agree, is refused, since
// either reading would lose tokens. path begins the names of wrong fields.
func ReadCounts(raw jsontext.Value, path string) (Counts, []field.Error) {
	members := map[string]jsontext.Value{}
	if raw.Kind() != '{' || jsonv2.Unmarshal(raw, &members) != nil {
		return Counts{}, []field.Error{{Field: path, Message: "must be the provider's usage object"}}
	}
	if len(members) == 0 {
		return Counts{}, nil
	}
	var found []shape
	for _, s := range shapes {
		// What is read as OpenAI responses has Anthropic's plain members too.
		same := s.name == "Anthropic" && len(found) > 0 && !anthropicCache(members)
		if s.matches(members) && !same {
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return Counts{}, []field.Error{{Field: path, Message: "has none of the members of an Anthropic, OpenAI, Gemini or Bedrock usage object"}}
	}
	// Gateways add members of another shape, as zeros or as the same numbers: the
	// shape that counts the most is the object's own.
	r := &reader{path: path}
	counts, own := found[0].read(r, members), found[0].name
	for _, other := range found[1:] {
		if len(r.wrong) > 0 {
			break
		}
		second := other.read(r, members)
		switch {
		case counts.within(second):
			counts, own = second, other.name
		case !second.within(counts):
			r.wrong = append(r.wrong, field.Error{Field: path, Message: fmt.Sprintf(
				"mixes members of %s and %s that do not agree: send the provider's own object", own, other.name)})
		}
	}
	return counts, r.wrong
}

// within tells whether every count that is not zero is the other's too.
func (c Counts) within(other Counts) bool {
	same := func(a, b int64) bool { return a == 0 || a == b }
	return same(c.Input, other.Input) && same(c.Output, other.Output) && same(c.CacheCreate, other.CacheCreate) && same(c.CacheRead, other.CacheRead)
}

func (s shape) matches(members map[string]jsontext.Value) bool {
	for _, name := range s.known {
		if _, ok := members[name]; ok {
			return true
		}
	}
	return false
}

// anthropicCache tells an object that is Anthropic's beyond doubt: the input and
// output members alone are OpenAI's too.
func anthropicCache(members map[string]jsontext.Value) bool {
	for name := range members {
		if strings.HasPrefix(name, "cache_") {
			return true
		}
	}
	return false
}

// readAnthropic: cache writes are reported flat, by lifetime, or both; the flat
// count's remainder is of the 5-minute kind.
func readAnthropic(r *reader, m map[string]jsontext.Value) Counts {
	split := r.object(m, "cache_creation")
	inner := &reader{path: r.path + ".cache_creation"}
	c := Counts{
		Input:       r.count(m, "input_tokens"),
		Output:      r.count(m, "output_tokens"),
		CacheRead:   r.count(m, "cache_read_input_tokens"),
		Ephemeral1h: inner.count(split, "ephemeral_1h_input_tokens"),
	}
	parts := inner.count(split, "ephemeral_5m_input_tokens") + c.Ephemeral1h
	r.wrong = append(r.wrong, inner.wrong...)
	c.CacheCreate = max(r.count(m, "cache_creation_input_tokens"), parts)
	return c
}

// readResponses: cached tokens are part of the input and counted once.
func readResponses(r *reader, m map[string]jsontext.Value) Counts {
	return r.cachedWithin(m, "input_tokens", "input_tokens_details", r.count(m, "output_tokens"))
}

// readChat: cached tokens are part of the prompt and counted once.
func readChat(r *reader, m map[string]jsontext.Value) Counts {
	return r.cachedWithin(m, "prompt_tokens", "prompt_tokens_details", r.count(m, "completion_tokens"))
}

func (r *reader) cachedWithin(m map[string]jsontext.Value, whole, details string, output int64) Counts {
	inner := &reader{path: r.path + "." + details}
	cached := inner.count(r.object(m, details), "cached_tokens")
	r.wrong = append(r.wrong, inner.wrong...)
	return r.without(cached, r.count(m, whole), output, details+".cached_tokens", whole)
}

// readGemini: cached content is part of the prompt; what tools gave is billed as prompt,
// and thoughts as output.
func readGemini(r *reader, m map[string]jsontext.Value) Counts {
	output := r.count(m, "candidatesTokenCount") + r.count(m, "thoughtsTokenCount")
	c := r.without(r.count(m, "cachedContentTokenCount"), r.count(m, "promptTokenCount"), output,
		"cachedContentTokenCount", "promptTokenCount")
	c.Input += r.count(m, "toolUsePromptTokenCount")
	return c
}

// without takes the cached tokens out of the whole they are a part of.
func (r *reader) without(cached, whole, output int64, part, of string) Counts {
	if cached > whole && len(r.wrong) == 0 {
		r.wrong = append(r.wrong, field.Error{Field: r.path + "." + part, Message: "must not be more than " + of + ", of which it is a part"})
	}
	return Counts{Input: whole - cached, Output: output, CacheRead: cached}
}

// readBedrock reads the Converse API's object: its cache counts stand beside the input.
func readBedrock(r *reader, m map[string]jsontext.Value) Counts {
	return Counts{
		Input:       r.count(m, "inputTokens"),
		Output:      r.count(m, "outputTokens"),
		CacheRead:   r.count(m, "cacheReadInputTokens"),
		CacheCreate: r.count(m, "cacheWriteInputTokens"),
	}
}
