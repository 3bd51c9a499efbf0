package relay

import "strings"

// format is how one of the providers' APIs is read: what a request of it may use, and what
// an answer of it has used.
type format struct {
	name string
	// counts are the members of a request that bound its output.
	counts map[string]bool
	// bound is the most output tokens of all answers together; false: the request sets none.
	bound    func(counts map[string]int64) (int64, bool)
	noOutput bool // its answers have no output tokens
	// blocks are the paths of objects that may be images, audio or files, and payloads the
	// members of them that are objects with the bytes.
	blocks, payloads map[string]bool
	mediaKind        func(*block) string // image, audio or file; empty: none of them
	// media is the most that one of each may cost, in tokens.
	media map[string]int64
	// meter makes what reads an answer.
	meter func() meter
}

func set(names ...string) map[string]bool {
	all := map[string]bool{}
	for _, name := range names {
		all[name] = true
	}
	return all
}

// boundBy is a bound that the first of some members sets, times what another one says.
func boundBy(times string, members ...string) func(map[string]int64) (int64, bool) {
	return func(counts map[string]int64) (int64, bool) {
		for _, member := range members {
			if n, has := counts[member]; has && n >= 0 {
				return n * max(1, min(counts[times], 1000)), true
			}
		}
		return 0, false
	}
}

// byType is the kind of media that a block's type says, for Anthropic and OpenAI.
func byType(b *block) string {
	switch b.kind {
	case "image", "image_url", "input_image":
		return "image"
	case "input_audio":
		return "audio"
	case "document", "file", "input_file":
		return "file"
	}
	return ""
}

// byMime is the kind of media that a part's MIME type says, for Gemini.
func byMime(b *block) string {
	switch {
	case !b.has:
		return ""
	case strings.HasPrefix(b.mime, "image/"):
		return "image"
	case b.mime == "application/pdf":
		return "pdf"
	}
	return "file"
}

// The formats, with the most that media cost in each: what the largest image takes, or a
// document of as many pages, or a recording of such a length, as the provider accepts; or
// all of the context, where that is less.
var (
	// Source: https://platform.claude.com/docs/en/build-with-claude/vision
	anthropicMessages = format{
		name: "anthropic", counts: set("max_tokens"), bound: boundBy("", "max_tokens"),
		blocks: set("messages.content", "messages.content.content"), payloads: set("source"), mediaKind: byType,
		media: map[string]int64{"image": 4784, "file": 200_000},
		meter: func() meter { return &anthropicMeter{} },
	}
	// Source: https://developers.openai.com/api/docs/guides/images-vision
	openAIChat = format{
		name: "chat", counts: set("max_tokens", "max_completion_tokens", "n"), bound: boundBy("n", "max_completion_tokens", "max_tokens"),
		blocks: set("messages.content"), payloads: set("image_url", "input_audio", "file"), mediaKind: byType,
		media: map[string]int64{"image": 48_200, "audio": 128_000, "file": 272_000},
		meter: func() meter { return &chatMeter{} },
	}
	openAIResponses = format{
		name: "responses", counts: set("max_output_tokens"), bound: boundBy("", "max_output_tokens"),
		blocks: set("input.content", "input.output"), payloads: set("input_audio"), mediaKind: byType,
		media: map[string]int64{"image": 48_200, "audio": 128_000, "file": 272_000},
		meter: func() meter { return &responsesMeter{} },
	}
	openAIEmbeddings = format{
		name: "embeddings", bound: boundBy(""), noOutput: true,
		mediaKind: func(*block) string { return "" },
		meter:     func() meter { return &chatMeter{} },
	}
	// Source: https://ai.google.dev/gemini-api/docs/tokens
	geminiContent = format{
		name: "gemini", counts: set("generationConfig.maxOutputTokens", "generation_config.max_output_tokens", "generationConfig.candidateCount"),
		bound:  boundBy("generationConfig.candidateCount", "generationConfig.maxOutputTokens", "generation_config.max_output_tokens"),
		blocks: set("contents.parts", "contents.parts.functionResponse.parts", "systemInstruction.parts"), payloads: set("inlineData", "inline_data", "fileData", "file_data"), mediaKind: byMime,
		media: map[string]int64{"image": 4_200, "pdf": 258_000, "file": 1_048_576},
		meter: func() meter { return &geminiMeter{} },
	}
)
