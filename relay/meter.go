package relay

import (
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// meter reads what an answer of one format used, from its events as they pass.
type meter interface {
	// event reads one event of a stream, or an answer that came whole. What it cannot read
	// it passes over.
	event(data []byte)
	// reading is what it knows so far.
	reading() reading
	// passed notes how many bytes have passed of an answer whose text was not read.
	passed(bytes int64)
	// estimated is a usage object in the provider's shape for an answer that never told its
	// own: with what it told, and for the rest these numbers.
	estimated(input Estimate, output int64) map[string]jsontext.Value
}

// reading is what is known of an answer.
type reading struct {
	usage     map[string]jsontext.Value // as the provider told it; nil: it did not
	final     bool                      // the usage is that of the whole answer
	ended     bool                      // the provider said that nothing comes after
	failed    bool                      // it said that something went wrong
	requestID string                    // the provider's id of the answer; empty: not told
	received  textCount                 // output that has come
	output    int64                     // the largest number of output tokens that was told
}

// maxMember is how long a member of a usage object may be, in bytes: none that counts is longer.
const maxMember = 4096

// merge takes members of a usage object that was told later: each of them counts all there
// has been, so the latest holds. A null says nothing, and a zero does not undo a number.
func merge(into *map[string]jsontext.Value, later map[string]jsontext.Value) {
	if *into == nil && later != nil {
		*into = map[string]jsontext.Value{}
	}
	for name, value := range later {
		if value.Kind() == 'n' {
			continue
		}
		if len(value) > maxMember {
			continue
		}
		if before := (*into)[name]; string(value) == "0" && before.Kind() == '0' {
			continue
		}
		(*into)[name] = value.Clone()
	}
}

// number is a member that counts something; 0: there is none.
func number(members map[string]jsontext.Value, name string) (n int64) {
	if jsonv2.Unmarshal(members[name], &n) != nil {
		return 0
	}
	return n
}

func (r *reading) passed(bytes int64) { r.received.ascii = bytes }

func numeral(n int64) jsontext.Value { return jsontext.Value(jsontext.Int(n).String()) }

// filled is an object with some members set.
func filled(members map[string]jsontext.Value, with map[string]int64) map[string]jsontext.Value {
	all := map[string]jsontext.Value{}
	for name, value := range members {
		all[name] = value
	}
	for name, n := range with {
		all[name] = numeral(n)
	}
	return all
}

// anthropicMeter reads Anthropic's messages: what the start of a stream tells, with what
// the deltas tell after it.
// Source: https://platform.claude.com/docs/en/build-with-claude/streaming
type anthropicMeter struct {
	known reading
	input bool // the input was told
}

type anthropicEvent struct {
	Type    string                    `json:"type"`
	ID      string                    `json:"id"`
	Usage   map[string]jsontext.Value `json:"usage"`
	Content jsontext.Value            `json:"content"`
	Message struct {
		ID    string                    `json:"id"`
		Usage map[string]jsontext.Value `json:"usage"`
	} `json:"message"`
	ContentBlock struct {
		Name string `json:"name"`
		Text string `json:"text"`
	} `json:"content_block"`
	Delta struct {
		Text        string `json:"text"`
		Thinking    string `json:"thinking"`
		PartialJSON string `json:"partial_json"`
	} `json:"delta"`
}

func (m *anthropicMeter) event(data []byte) {
	var e anthropicEvent
	if jsonv2.Unmarshal(data, &e) != nil {
		return
	}
	k := &m.known
	switch e.Type {
	case "", "message": // not a stream, or the end of a long one
		merge(&k.usage, e.Usage)
		k.requestID, k.final, k.ended = e.ID, e.Usage != nil, true
		k.received.add(countText(e.Content))
	case "message_start":
		k.requestID = e.Message.ID
		merge(&k.usage, e.Message.Usage)
		m.input = e.Message.Usage != nil
	case "message_delta":
		merge(&k.usage, e.Usage)
		k.final = k.final || e.Usage != nil
	case "content_block_start":
		k.received.add(countText(e.ContentBlock.Name + e.ContentBlock.Text))
	case "content_block_delta":
		k.received.add(countText(e.Delta.Text))
		k.received.add(countText(e.Delta.Thinking))
		k.received.add(countText(e.Delta.PartialJSON))
	case "message_stop":
		k.ended = true
	case "error":
		k.failed = true
	}
	if e.Usage != nil || e.Message.Usage != nil {
		k.output = max(k.output, number(k.usage, "output_tokens"))
	}
}

func (m *anthropicMeter) reading() reading { return m.known }

func (m *anthropicMeter) passed(bytes int64) { m.known.passed(bytes) }

func (m *anthropicMeter) estimated(input Estimate, output int64) map[string]jsontext.Value {
	if m.input {
		return filled(m.known.usage, map[string]int64{"output_tokens": output})
	}
	with := map[string]int64{"input_tokens": input.Input, "output_tokens": output}
	if all := input.CacheWrite + input.CacheWrite1h; all > 0 {
		with["cache_creation_input_tokens"] = all
	}
	usage := filled(nil, with)
	if input.CacheWrite1h > 0 {
		usage["cache_creation"] = jsontext.Value(`{"ephemeral_1h_input_tokens":` + string(numeral(input.CacheWrite1h)) + `}`)
	}
	return usage
}

// chatMeter reads OpenAI's chat completions, and embeddings, which look the same from here.
// Source: https://developers.openai.com/api/reference/resources/chat
type chatMeter struct{ known reading }

type chatEvent struct {
	ID      string                    `json:"id"`
	Error   jsontext.Value            `json:"error"`
	Usage   map[string]jsontext.Value `json:"usage"`
	Choices []struct {
		Message jsontext.Value `json:"message"` // not a stream
		Delta   struct {
			Content          string `json:"content"`
			ReasoningContent string `json:"reasoning_content"`
			Refusal          string `json:"refusal"`
			ToolCalls        []struct {
				Function struct {
					Name      string `json:"name"`
					Arguments string `json:"arguments"`
				} `json:"function"`
			} `json:"tool_calls"`
		} `json:"delta"`
	} `json:"choices"`
}

func (m *chatMeter) event(data []byte) {
	k := &m.known
	if string(data) == "[DONE]" {
		k.ended = true
		return
	}
	var e chatEvent
	if jsonv2.Unmarshal(data, &e) != nil {
		return
	}
	if e.ID != "" {
		k.requestID = e.ID
	}
	k.failed = k.failed || e.Error.Kind() == '{'
	for _, c := range e.Choices {
		k.received.add(countText(c.Message))
		k.received.add(countText(c.Delta.Content))
		k.received.add(countText(c.Delta.ReasoningContent))
		k.received.add(countText(c.Delta.Refusal))
		for _, call := range c.Delta.ToolCalls {
			k.received.add(countText(call.Function.Name + call.Function.Arguments))
		}
	}
	if e.Usage != nil { // of some servers each chunk has it, each counting all so far
		merge(&k.usage, e.Usage)
		k.final = true
		k.output = max(k.output, number(k.usage, "completion_tokens"))
	}
}

func (m *chatMeter) reading() reading { return m.known }

func (m *chatMeter) passed(bytes int64) { m.known.passed(bytes) }

func (m *chatMeter) estimated(input Estimate, output int64) map[string]jsontext.Value {
	return filled(nil, map[string]int64{"prompt_tokens": input.Input, "completion_tokens": output})
}

// responsesMeter reads OpenAI's responses: any of the three events that end a stream tells
// the usage.
// Source: https://developers.openai.com/api/reference/resources/responses
type responsesMeter struct{ known reading }

type responsesEvent struct {
	Type     string                    `json:"type"`
	ID       string                    `json:"id"`
	Object   string                    `json:"object"`
	Usage    map[string]jsontext.Value `json:"usage"`
	Delta    jsontext.Value            `json:"delta"`
	Output   jsontext.Value            `json:"output"` // not a stream
	Response struct {
		ID    string                    `json:"id"`
		Usage map[string]jsontext.Value `json:"usage"`
	} `json:"response"`
}

func (m *responsesMeter) event(data []byte) {
	var e responsesEvent
	if jsonv2.Unmarshal(data, &e) != nil {
		return
	}
	k := &m.known
	if e.Delta.Kind() == '"' {
		k.received.add(countText(e.Delta[1 : len(e.Delta)-1]))
	}
	usage := e.Response.Usage
	switch e.Type {
	case "": // not a stream, or the end of a long event
		k.received.add(countText(e.Output))
		usage, k.ended, e.Response.ID = e.Usage, true, e.ID
	case "response.completed", "response.incomplete":
		k.ended = true
	case "response.failed":
		k.ended, k.failed = true, true
	case "error":
		k.failed = true
	}
	if e.Response.ID != "" {
		k.requestID = e.Response.ID
	}
	if usage != nil {
		merge(&k.usage, usage)
		k.final = k.ended
		k.output = max(k.output, number(k.usage, "output_tokens"))
	}
}

func (m *responsesMeter) reading() reading { return m.known }

func (m *responsesMeter) passed(bytes int64) { m.known.passed(bytes) }

func (m *responsesMeter) estimated(input Estimate, output int64) map[string]jsontext.Value {
	return filled(nil, map[string]int64{"input_tokens": input.Input, "output_tokens": output})
}

// geminiMeter reads Gemini's generateContent. Nothing says that a stream has ended but that
// it ends; the chunks that tell usage each count all so far.
// Source: https://ai.google.dev/api/generate-content
type geminiMeter struct {
	known reading
	done  bool // all of the answer has come, but perhaps its usage
}

type geminiEvent struct {
	ResponseID string                    `json:"responseId"`
	Error      jsontext.Value            `json:"error"`
	Usage      map[string]jsontext.Value `json:"usageMetadata"`
	Feedback   jsontext.Value            `json:"promptFeedback"` // a blocked prompt has no candidates
	Candidates []struct {
		FinishReason string `json:"finishReason"`
		Content      struct {
			Parts []struct {
				Text         string         `json:"text"`
				FunctionCall jsontext.Value `json:"functionCall"`
			} `json:"parts"`
		} `json:"content"`
	} `json:"candidates"`
}

func (m *geminiMeter) event(data []byte) {
	var e geminiEvent
	if jsonv2.Unmarshal(data, &e) != nil {
		return
	}
	k := &m.known
	if e.ResponseID != "" {
		k.requestID = e.ResponseID
	}
	k.failed = k.failed || e.Error.Kind() == '{'
	m.done = m.done || e.Feedback != nil && len(e.Candidates) == 0
	for _, c := range e.Candidates {
		m.done = m.done || c.FinishReason != ""
		for _, part := range c.Content.Parts {
			k.received.add(countText(part.Text))
			k.received.add(countText(part.FunctionCall))
		}
	}
	if e.Usage != nil {
		merge(&k.usage, e.Usage)
		k.output = max(k.output, number(k.usage, "candidatesTokenCount")+number(k.usage, "thoughtsTokenCount"))
	}
	k.final = m.done && k.usage != nil
}

func (m *geminiMeter) reading() reading { return m.known }

func (m *geminiMeter) passed(bytes int64) { m.known.passed(bytes) }

func (m *geminiMeter) estimated(input Estimate, output int64) map[string]jsontext.Value {
	with := map[string]int64{"candidatesTokenCount": max(0, output-number(m.known.usage, "thoughtsTokenCount"))}
	if number(m.known.usage, "promptTokenCount") == 0 {
		with["promptTokenCount"] = input.Input
	}
	return filled(m.known.usage, with)
}
