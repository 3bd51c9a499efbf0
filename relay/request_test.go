package relay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func readAll(t testing.TB, f *format, body string) asked {
	t.Helper()
	a, err := readRequest(f, strings.NewReader(body))
	if err != nil {
		t.Fatalf("%.200s: %v", body, err)
	}
	return a
}

// Guarantee: the bound on output is what the provider's own member says, times the number of
// answers, wherever it stands; a request without one has none.
func TestBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format *format
		body   string
		want   int64 // negative: none
	}{
		{&anthropicMessages, `{"max_tokens":0,"model":"m"}`, 0},
		{&anthropicMessages, `{"messages":[{"max_tokens":5}],"model":"m","max_tokens":32000}`, 32000},
		{&anthropicMessages, `{"messages":[{"max_tokens":5}]}`, -1},
		{&anthropicMessages, `{"max_tokens":-1}`, -1},
		{&anthropicMessages, `{"max_tokens":1e3}`, -1},
		{&openAIChat, `{"max_tokens":7}`, 7},
		{&openAIChat, `{"max_tokens":7,"max_completion_tokens":9,"n":3}`, 27},
		{&openAIChat, `{"n":3}`, -1},
		{&openAIChat, `{"max_tokens":7,"n":0}`, 7},
		{&openAIResponses, `{"max_output_tokens":11}`, 11},
		{&geminiContent, `{"generationConfig":{"candidateCount":2,"maxOutputTokens":8}}`, 16},
		{&geminiContent, `{"maxOutputTokens":8}`, -1},
	} {
		a := readAll(t, c.format, c.body)
		if c.want < 0 && a.bound != nil || c.want >= 0 && (a.bound == nil || *a.bound != c.want) {
			t.Errorf("%s: the bound is %v, want %d", c.body, a.bound, c.want)
		}
	}
	if a := readAll(t, &openAIEmbeddings, `{"input":"x"}`); a.estimate.Output == nil || *a.estimate.Output != 0 {
		t.Error("embeddings have no output to reserve")
	}
}

// Guarantee: a picture, a recording and a file count by the most that the provider makes of
// one, in whatever order the members of its block come; text is never taken for one, so that
// nobody pays for a text as for a picture.
func TestMedia(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("A", 300_000)
	text := int64(len(long) / bytesPerToken)
	for name, c := range map[string]struct {
		format *format
		body   string
		want   int64
	}{
		"an image":                    {&anthropicMessages, `{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%s"}}]}]}`, 4784},
		"an image, its type last":     {&anthropicMessages, `{"messages":[{"content":[{"source":{"data":"%s","type":"base64"},"type":"image"}],"role":"user"}]}`, 4784},
		"an image in a tool's result": {&anthropicMessages, `{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"base64","data":"%s"}}]}]}]}`, 4784},
		"a document":                  {&anthropicMessages, `{"messages":[{"content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"%s"}}]}]}`, 200_000},
		"a document of text":          {&anthropicMessages, `{"messages":[{"content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"%s"}}]}]}`, text},
		"a text called image":         {&anthropicMessages, `{"messages":[{"content":[{"type":"tool_use","input":{"type":"image","source":{"type":"base64","data":"%s"}}}]}]}`, text},
		"a text as image":             {&anthropicMessages, `{"messages":[{"content":[{"type":"image","text":"%s"}]}]}`, text + 4784},
		"a tool's schema":             {&anthropicMessages, `{"tools":[{"input_schema":{"type":"image","source":{"data":"%s"}}}]}`, text},
		"the system":                  {&anthropicMessages, `{"system":"%s"}`, text},
		"a url of a chat":             {&openAIChat, `{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]}]}`, 48_200},
		"audio of a chat":             {&openAIChat, `{"messages":[{"content":[{"input_audio":{"data":"%s","format":"wav"},"type":"input_audio"}]}]}`, 128_000},
		"a file of a chat":            {&openAIChat, `{"messages":[{"content":[{"type":"file","file":{"file_data":"%s"}}]}]}`, 272_000},
		"a text of a chat":            {&openAIChat, `{"messages":[{"content":[{"type":"text","url":"%s"}]}]}`, text},
		"an input image":              {&openAIResponses, `{"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:%s"}]}]}`, 48_200},
		"an input file":               {&openAIResponses, `{"input":[{"role":"user","content":[{"type":"input_file","file_data":"%s"}]}]}`, 272_000},
		"a part":                      {&geminiContent, `{"contents":[{"parts":[{"inlineData":{"mimeType":"image/jpeg","data":"%s"}}]}]}`, 4200},
		"a part in snake":             {&geminiContent, `{"contents":[{"parts":[{"inline_data":{"data":"%s","mime_type":"application/pdf"}}]}]}`, 258_000},
		"a film":                      {&geminiContent, `{"contents":[{"parts":[{"inlineData":{"mimeType":"video/mp4","data":"%s"}}]}]}`, 1_048_576},
		"a part of text":              {&geminiContent, `{"contents":[{"parts":[{"text":"%s"}]}]}`, text},
	} {
		got := readAll(t, c.format, fmt.Sprintf(c.body, long)).estimate.Input - promptOverhead
		if got < c.want || got > c.want+100 {
			t.Errorf("%s: %d tokens, want %d and little more", name, got, c.want)
		}
	}
}

// Guarantee: text counts a third of its bytes of ASCII and every other byte, however it is
// written; caching is priced as such; a list of tokens counts each of them.
func TestText(t *testing.T) {
	t.Parallel()
	input := func(f *format, body string) Estimate { return readAll(t, f, body).estimate }
	plain := input(&openAIChat, `{"messages":[{"content":""}]}`).Input
	for text, want := range map[string]int64{strings.Repeat("abc", 100): 100, strings.Repeat("éß", 100): 400, strings.Repeat(`\u65e5`, 100): 300} {
		if got := input(&openAIChat, `{"messages":[{"content":"`+text+`"}]}`).Input - plain; got < want || got > want+1 {
			t.Errorf("%.20s: %d tokens, want %d", text, got, want)
		}
	}
	if got := input(&openAIEmbeddings, `{"input":[`+strings.Repeat("1,", 999)+`1]}`).Input - promptOverhead; got < 1000 {
		t.Errorf("1000 tokens count %d", got)
	}
	for body, want := range map[string]string{
		`{"system":[{"text":"x","cache_control":{"type":"ephemeral"}}]}`:                                                       "5m",
		`{"system":[{"text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}],"x":{"cache_control":{"type":"ephemeral"}}}`: "1h",
		`{"system":"x","cache_control":null}`:                                                                                  "none",
	} {
		e := input(&anthropicMessages, body)
		got := map[bool]string{true: "none"}[e.Input > 0] + map[bool]string{true: "5m"}[e.CacheWrite > 0] + map[bool]string{true: "1h"}[e.CacheWrite1h > 0]
		if got != want {
			t.Errorf("%s is priced as %s, want %s", body, got, want)
		}
	}
}

// Guarantee: whatever a body asks of a stream, what goes upstream asks for its usage and for
// all else that the client asked for.
func TestAskForUsageProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		space := rapid.SampledFrom([]string{"", " ", "\n\t"})
		options := rapid.SampledFrom([]string{"", `{}`, `{"include_usage":false}`, `{ "include_usage" : null, "x":[1,{"y":"}"}]}`, `{"include_obfuscation":false}`}).Draw(t, "options")
		members := []string{`"model":"m"`, `"stream":true`, `"messages":[{"content":"a \"stream_options\":{} b"}]`}
		if options != "" {
			members = append(members, `"stream_options":`+space.Draw(t, "space")+options)
		}
		body := space.Draw(t, "before") + "{" + space.Draw(t, "in") + strings.Join(rapid.Permutation(members).Draw(t, "order"), space.Draw(t, "between")+",") + "}" + space.Draw(t, "after")
		a, err := readRequest(&openAIChat, strings.NewReader(body))
		if err != nil || a.usageAsked || !a.stream || a.model != "m" {
			t.Fatalf("%s: %+v %v", body, a, err)
		}
		p, err := a.askForUsage()
		if err != nil {
			t.Fatal(err)
		}
		sent := body[:p.from] + p.with + body[p.to:]
		var before, after map[string]any
		if json.Unmarshal([]byte(body), &before) != nil || json.Unmarshal([]byte(sent), &after) != nil {
			t.Fatalf("%s became %s", body, sent)
		}
		got, _ := after["stream_options"].(map[string]any)
		if got["include_usage"] != true {
			t.Fatalf("%s became %s", body, sent)
		}
		was, _ := before["stream_options"].(map[string]any)
		delete(was, "include_usage")
		delete(got, "include_usage")
		delete(before, "stream_options")
		delete(after, "stream_options")
		if len(was) != len(got) || fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatalf("%s became %s", body, sent)
		}
	})
}

// Guarantee: no body of any provider breaks what reads it, and what it reads costs nothing
// less than nothing.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{`{}`, `{"model":"m","max_tokens":5,"messages":[{"content":[{"type":"image","source":{"data":"x"}}]}]}`, `{"stream_options":{"include_usage":true},"stream":true}`, `{"a":[1,2,{"b":null}]}`, `[`, `{"max_tokens":99999999999999999999}`, "{\"a\":\"\\u0000\\ud800\"}"} {
		f.Add(seed)
	}
	formats := []*format{&anthropicMessages, &openAIChat, &openAIResponses, &openAIEmbeddings, &geminiContent}
	f.Fuzz(func(t *testing.T, body string) {
		for _, one := range formats {
			a, err := readRequest(one, strings.NewReader(body))
			if err != nil {
				continue
			}
			if e := a.estimate; e.Input < 0 || e.CacheWrite < 0 || e.CacheWrite1h < 0 || e.Output != nil && *e.Output < 0 || e.Input+e.CacheWrite+e.CacheWrite1h < promptOverhead {
				t.Errorf("%s: %+v", body, e)
			}
			if p, err := a.askForUsage(); err == nil && one == &openAIChat {
				if p.from < 0 || p.to < p.from || p.to > int64(len(body)) {
					t.Errorf("%s: %+v", body, p)
				}
			}
		}
	})
}

// Guarantee: however an answer is cut into pieces, the same events are seen, and together
// they are the bytes that came; no answer breaks what reads it.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":5}}}\n\n: comment\n\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\r\n\r\n",
		"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n", "data: a\ndata: b\n\n", "data", `[{"usageMetadata":{"promptTokenCount":1}},` + "\r\n" + `{"a":"]}\\\""}]`, `{"usage":{"input_tokens":1}}`,
	} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, answer []byte, step uint8) {
		for name, of := range map[string]func() splitter{"sse": func() splitter { return &sse{} }, "array": func() splitter { return &array{} }, "whole": func() splitter { return &whole{} }} {
			read := func(step int) (events [][]byte, raw []byte) {
				s := of()
				each := func(data, came []byte) {
					events, raw = append(events, bytes.Clone(data)), append(raw, came...)
				}
				for at := 0; at < len(answer); at += step {
					s.feed(answer[at:min(len(answer), at+step)], each)
				}
				s.end(each)
				return events, raw
			}
			one, raw := read(max(1, len(answer)))
			two, again := read(int(step) + 1)
			if len(one) != len(two) || !bytes.Equal(raw, again) || name != "array" && !bytes.Equal(raw, answer) {
				t.Errorf("%s: %q is %q or %q", name, answer, one, two)
			}
			for _, m := range []meter{&anthropicMeter{}, &chatMeter{}, &responsesMeter{}, &geminiMeter{}} {
				for i, event := range one {
					if !bytes.Equal(event, two[i]) {
						t.Errorf("%s: event %d is %q or %q", name, i, event, two[i])
					}
					m.event(event)
				}
				if m.reading().output < 0 {
					t.Errorf("%q has an output of %d", answer, m.reading().output)
				}
				m.estimated(Estimate{Input: 1}, 2)
			}
		}
	})
}

// Guarantee: an event that is longer than what is held passes, and its usage is read from
// its end; text in it that looks like usage is none.
func TestLongEvents(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(`x \"usage\":{\"input_tokens\":9} `, 100_000)
	for name, c := range map[string]struct {
		split splitter
		meter meter
		text  string
		want  string
	}{
		"a message":  {&whole{}, &anthropicMeter{}, `{"type":"message","id":"m","content":"` + long + `","usage":{"input_tokens":1,"output_tokens":2}}`, `{"input_tokens":1,"output_tokens":2}`},
		"a response": {&sse{}, &responsesMeter{}, "data: {\"type\":\"response.completed\",\"response\":{\"output\":\"" + long + "\",\"usage\":{\"input_tokens\":1}}}\n\n", `{"input_tokens":1}`},
		"a picture":  {&array{}, &geminiMeter{}, `[{"candidates":[{"content":{"parts":[{"inlineData":"` + long + `"}]}}],"usageMetadata":{"promptTokenCount":1}}]`, `{"promptTokenCount":1}`},
	} {
		for at := 0; at < len(c.text); at += 5000 {
			c.split.feed([]byte(c.text[at:min(len(c.text), at+5000)]), func(data, _ []byte) { c.meter.event(data) })
		}
		c.split.end(func(data, _ []byte) { c.meter.event(data) })
		raw, err := json.Marshal(c.meter.reading().usage)
		if err != nil || string(raw) != c.want {
			t.Errorf("%s: the usage is %s %v, want %s", name, raw, err, c.want)
		}
	}
}

// Guarantee: of usage that is told more than once the latest holds, member by member; null
// says nothing, and a zero undoes no number.
func TestMergedUsage(t *testing.T) {
	t.Parallel()
	m := &anthropicMeter{}
	for _, event := range []string{
		`{"type":"message_start","message":{"id":"m","usage":{"input_tokens":25,"output_tokens":1,"cache_creation":{"ephemeral_1h_input_tokens":7},"cache_creation_input_tokens":7}}}`,
		`{"type":"message_delta","usage":{"output_tokens":15,"input_tokens":0,"cache_read_input_tokens":null}}`,
		`{"type":"message_delta","usage":{"output_tokens":40,"cache_creation_input_tokens":9}}`,
		`{"type":"something_new","usage":{"output_tokens":400}}`,
	} {
		m.event([]byte(event))
	}
	want := `{"cache_creation":{"ephemeral_1h_input_tokens":7},"cache_creation_input_tokens":9,"input_tokens":25,"output_tokens":40}`
	if raw, err := json.Marshal(m.reading().usage); err != nil || string(raw) != want {
		t.Errorf("the usage is %s %v, want %s", raw, err, want)
	}
}
