// Package mockupstream stands in for the providers: it answers as Anthropic, OpenAI and
// Gemini do, with usage that a test can foretell. It is for tests, for the bench, and for
// trying the relay out without an account (keyledger bench upstream).
//
// Headers of a request say how the answer goes: see Plan.
package mockupstream

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
)

// Plan is how one answer goes. Each member is set by a header X-Mock-<name>.
type Plan struct {
	Status     int           // an error of this status instead of an answer
	RetryAfter string        // of such an error
	Events     int           // pieces of text in the answer; each is one output token. Default: 5
	Gap        time.Duration // between events of a stream
	Delay      time.Duration // before the answer begins
	Break      int           // the connection is cut after so many events; 0: it is not
	Stall      int           // nothing comes after so many events; 0: all comes
	NoUsage    bool          // the usage is never told
	Encoding   string        // gzip or br, if the request accepts it
	ID         string        // of the answer; else each has its own
	Pad        int           // bytes of text in each event
	Clock      bool          // the text of each event is when it was sent, in Unix nanoseconds
}

func planOf(r *http.Request) Plan {
	get := func(name string) string { return r.Header.Get("X-Mock-" + name) }
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(get(name)); err == nil {
			return n
		}
		return otherwise
	}
	wait := func(name string) time.Duration {
		d, _ := time.ParseDuration(get(name))
		return d
	}
	p := Plan{
		Status: number("Status", 0), RetryAfter: get("Retry-After"), Events: number("Events", 5), Gap: wait("Gap"), Delay: wait("Delay"),
		Break: number("Break", 0), Stall: number("Stall", 0), NoUsage: get("No-Usage") != "", Encoding: get("Encoding"), ID: get("Id"), Pad: number("Pad", 0), Clock: get("Clock") != "",
	}
	if !strings.Contains(r.Header.Get("Accept-Encoding"), p.Encoding) {
		p.Encoding = ""
	}
	if p.ID == "" {
		p.ID = fmt.Sprintf("mock_%d", time.Now().UnixNano())
	}
	return p
}

// Input is the number of input tokens that every answer tells.
const Input = 100

// Server answers for all providers. The zero value is ready; its hook must be set before it serves.
type Server struct {
	// Seen is told of each request before it is answered, with its body; it may answer
	// itself and return true. Nil: nobody is told.
	Seen func(w http.ResponseWriter, r *http.Request, body []byte) bool
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if s.Seen != nil && s.Seen(w, r, raw) {
		return
	}
	p := planOf(r)
	select {
	case <-time.After(p.Delay):
	case <-r.Context().Done():
		return
	}
	var body struct {
		Model         string `json:"model"`
		Stream        bool   `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	_ = json.Unmarshal(raw, &body) // a GET has none
	a := &answer{w: w, r: r, p: p, model: body.Model, text: "word " + strings.Repeat("x", p.Pad)}
	path := r.URL.Path
	if p.Status != 0 {
		a.fail(path)
		return
	}
	w.Header().Set("Request-Id", p.ID)
	switch {
	case strings.HasSuffix(path, "/messages/count_tokens"):
		a.document(map[string]any{"input_tokens": Input})
	case strings.HasSuffix(path, "/messages"):
		a.messages(body.Stream)
	case strings.HasSuffix(path, "/chat/completions"):
		a.chat(body.Stream, body.StreamOptions.IncludeUsage)
	case strings.HasSuffix(path, "/responses"):
		a.responses(body.Stream)
	case strings.HasSuffix(path, "/embeddings"):
		a.document(a.used(map[string]any{"object": "list", "model": a.model, "data": []any{map[string]any{"object": "embedding", "index": 0, "embedding": []float64{.1, .2}}}}, "usage", map[string]any{"prompt_tokens": Input, "total_tokens": Input}))
	case strings.HasSuffix(path, ":generateContent"):
		a.document(a.candidate(strings.Repeat(a.text, p.Events), "STOP", p.Events))
	case strings.HasSuffix(path, ":streamGenerateContent"):
		a.gemini(r.URL.Query().Get("alt") == "sse")
	case strings.HasSuffix(path, ":countTokens"):
		a.document(map[string]any{"totalTokens": Input})
	case strings.HasSuffix(path, "/models"):
		a.document(map[string]any{"object": "list", "data": []any{map[string]any{"id": "mock-model", "object": "model", "type": "model"}}, "models": []any{}})
	default:
		http.NotFound(w, r)
	}
}

// answer is one answer under way.
type answer struct {
	w     http.ResponseWriter
	r     *http.Request
	p     Plan
	model string
	text  string
	out   interface {
		io.Writer
		Flush() error
	}
}

type plain struct{ http.ResponseWriter }

func (plain) Flush() error { return nil }

// begin sends the headers.
func (a *answer) begin(kind string) {
	a.w.Header().Set("Content-Type", kind)
	a.out = plain{a.w}
	switch a.p.Encoding {
	case "gzip":
		a.out = gzip.NewWriter(a.w)
	case "br":
		a.out = brotli.NewWriter(a.w)
	}
	if a.p.Encoding != "" {
		a.w.Header().Set("Content-Encoding", a.p.Encoding)
	}
	a.w.WriteHeader(http.StatusOK)
}

// end ends the answer well.
func (a *answer) end() {
	if c, ok := a.out.(io.Closer); ok {
		_ = c.Close()
	}
}

// send sends a piece at once.
func (a *answer) send(text string) {
	_, _ = io.WriteString(a.out, text)
	_ = a.out.Flush()
	_ = http.NewResponseController(a.w).Flush()
}

// pieces sends the pieces of a stream as the plan says; false: it has gone wrong, or nobody
// reads any more.
func (a *answer) pieces(piece func(n int)) bool {
	for n := 1; n <= a.p.Events; n++ {
		select {
		case <-time.After(a.p.Gap):
		case <-a.r.Context().Done():
			return false
		}
		if a.p.Clock {
			a.text = strconv.FormatInt(time.Now().UnixNano(), 10)
		}
		piece(n)
		switch n {
		case a.p.Break:
			panic(http.ErrAbortHandler)
		case a.p.Stall:
			<-a.r.Context().Done()
			return false
		}
	}
	return true
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own making
	}
	return string(raw)
}

func (a *answer) document(v any) {
	body := text(v)
	if a.p.Encoding == "" {
		a.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	a.begin("application/json")
	_, _ = io.WriteString(a.out, body)
	a.end()
}

// used adds usage to an object, unless the plan leaves it out.
func (a *answer) used(to map[string]any, name string, usage map[string]any) map[string]any {
	if !a.p.NoUsage {
		to[name] = usage
	}
	return to
}

func (a *answer) event(name string, v any) {
	if name != "" {
		name = "event: " + name + "\n"
	}
	a.send(name + "data: " + text(v) + "\n\n")
}

func (a *answer) messages(stream bool) {
	message := map[string]any{"id": a.p.ID, "type": "message", "role": "assistant", "model": a.model, "content": []any{}, "stop_reason": nil, "stop_sequence": nil}
	if !stream {
		message["content"] = []any{map[string]any{"type": "text", "text": strings.Repeat(a.text, a.p.Events)}}
		message["stop_reason"] = "end_turn"
		a.document(a.used(message, "usage", map[string]any{"input_tokens": Input, "output_tokens": a.p.Events}))
		return
	}
	a.begin("text/event-stream")
	a.event("message_start", map[string]any{"type": "message_start", "message": a.used(message, "usage", map[string]any{
		"input_tokens": Input, "output_tokens": 1, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 20,
		"cache_creation": map[string]any{"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
	})})
	a.event("content_block_start", map[string]any{"type": "content_block_start", "index": 0, "content_block": map[string]any{"type": "text", "text": ""}})
	a.event("ping", map[string]any{"type": "ping"})
	// Made once, so that a bench of many streams measures what is between them and not this.
	before, after, _ := strings.Cut(text(map[string]any{"type": "content_block_delta", "index": 0, "delta": map[string]any{"type": "text_delta", "text": ""}}), `"text":""`)
	if !a.pieces(func(int) {
		a.send("event: content_block_delta\ndata: " + before + `"text":"` + a.text + `"` + after + "\n\n")
	}) {
		return
	}
	a.event("content_block_stop", map[string]any{"type": "content_block_stop", "index": 0})
	stop := map[string]any{"stop_reason": "end_turn", "stop_sequence": nil}
	a.event("message_delta", a.used(map[string]any{"type": "message_delta", "delta": stop}, "usage", map[string]any{"output_tokens": a.p.Events}))
	a.event("message_stop", map[string]any{"type": "message_stop"})
	a.end()
}

func (a *answer) chat(stream, usage bool) {
	object := func(kind, part string, value any, finish any) map[string]any {
		return map[string]any{"id": a.p.ID, "object": kind, "created": 1, "model": a.model, "choices": []any{map[string]any{"index": 0, part: value, "finish_reason": finish}}}
	}
	counts := map[string]any{"prompt_tokens": Input, "completion_tokens": a.p.Events, "total_tokens": Input + a.p.Events, "prompt_tokens_details": map[string]any{"cached_tokens": 40}}
	if !stream {
		a.document(a.used(object("chat.completion", "message", map[string]any{"role": "assistant", "content": strings.Repeat(a.text, a.p.Events)}, "stop"), "usage", counts))
		return
	}
	chunk := func(delta map[string]any, finish any) {
		c := object("chat.completion.chunk", "delta", delta, finish)
		if usage {
			c["usage"] = nil
		}
		a.event("", c)
	}
	a.begin("text/event-stream")
	if !a.pieces(func(int) { chunk(map[string]any{"content": a.text}, nil) }) {
		return
	}
	chunk(map[string]any{}, "stop")
	if usage && !a.p.NoUsage {
		a.event("", map[string]any{"id": a.p.ID, "object": "chat.completion.chunk", "created": 1, "model": a.model, "choices": []any{}, "usage": counts})
	}
	a.send("data: [DONE]\n\n")
	a.end()
}

func (a *answer) responses(stream bool) {
	response := func(status string, usage any) map[string]any {
		return map[string]any{"id": a.p.ID, "object": "response", "created_at": 1, "status": status, "model": a.model, "usage": usage, "output": []any{map[string]any{
			"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": []any{map[string]any{"type": "output_text", "text": strings.Repeat(a.text, a.p.Events), "annotations": []any{}}}}}}
	}
	var counts any
	if !a.p.NoUsage {
		counts = map[string]any{"input_tokens": Input, "input_tokens_details": map[string]any{"cached_tokens": 40}, "output_tokens": a.p.Events, "output_tokens_details": map[string]any{"reasoning_tokens": 1}, "total_tokens": Input + a.p.Events}
	}
	if !stream {
		a.document(response("completed", counts))
		return
	}
	a.begin("text/event-stream")
	a.event("response.created", map[string]any{"type": "response.created", "sequence_number": 0, "response": response("in_progress", nil)})
	if !a.pieces(func(n int) {
		a.event("response.output_text.delta", map[string]any{"type": "response.output_text.delta", "sequence_number": n, "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": a.text})
	}) {
		return
	}
	last := "completed"
	if ends := a.r.Header.Get("X-Mock-Ends"); ends != "" {
		last = ends
	}
	a.event("response."+last, map[string]any{"type": "response." + last, "sequence_number": a.p.Events + 1, "response": response(last, counts)})
	a.end()
}

func (a *answer) candidate(text, finish string, output int) map[string]any {
	c := map[string]any{"content": map[string]any{"role": "model", "parts": []any{map[string]any{"text": text}}}, "index": 0}
	if finish != "" {
		c["finishReason"] = finish
	}
	return a.used(map[string]any{"candidates": []any{c}, "responseId": a.p.ID, "modelVersion": "mock"}, "usageMetadata", map[string]any{
		"promptTokenCount": Input, "candidatesTokenCount": output, "thoughtsTokenCount": 2, "cachedContentTokenCount": 40, "toolUsePromptTokenCount": 3, "totalTokenCount": Input + output + 5})
}

func (a *answer) gemini(events bool) {
	if events {
		a.begin("text/event-stream")
	} else {
		a.begin("application/json")
	}
	if !a.pieces(func(n int) {
		finish := ""
		if n == a.p.Events {
			finish = "STOP"
		}
		piece := a.candidate(a.text, finish, n)
		switch {
		case events:
			a.event("", piece)
		case n == 1:
			a.send("[" + text(piece))
		default:
			a.send(",\r\n" + text(piece))
		}
	}) {
		return
	}
	if !events {
		a.send("]")
	}
	a.end()
}

// fail answers with an error in the provider's format.
func (a *answer) fail(path string) {
	message := fmt.Sprintf("mock error %d for %s", a.p.Status, a.r.Header.Get("X-Api-Key")+a.r.Header.Get("Authorization")+a.r.Header.Get("X-Goog-Api-Key"))
	if a.p.RetryAfter != "" {
		a.w.Header().Set("Retry-After", a.p.RetryAfter)
	}
	a.w.Header().Set("Content-Type", "application/json")
	a.w.WriteHeader(a.p.Status)
	var body any = map[string]any{"error": map[string]any{"message": message, "type": "mock_error", "param": nil, "code": nil}}
	switch {
	case strings.Contains(path, "/messages"):
		body = map[string]any{"type": "error", "error": map[string]any{"type": "api_error", "message": message}, "request_id": a.p.ID}
	case strings.Contains(path, ":"):
		body = map[string]any{"error": map[string]any{"code": a.p.Status, "message": message, "status": "UNAVAILABLE"}}
	}
	_, _ = io.WriteString(a.w, text(body))
}
