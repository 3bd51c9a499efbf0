package price

import (
	"regexp"
	"strings"
)

var (
	bedrockVersion = regexp.MustCompile(`-v\d+(:\d+)?$`)
	plainVersion   = regexp.MustCompile(`-v\d+:\d+$`)
	contextMarker  = regexp.MustCompile(`\[[^\]]*\]$`)
	region         = regexp.MustCompile(`^(us|eu|ap|apac|au|jp|ca|sa|global|us-gov|[a-z]{2}(-gov)?-[a-z]+-\d)\.`)
	dateSuffix     = regexp.MustCompile(`-(\d{8}|\d{4}-\d{2}-\d{2})$`)
)

// Normalize is the model name that rollups group by: trimmed; a name from
// Bedrock (one that contains .anthropic. or .claude) without region, anthropic.
// and -vN:M; another without -vN:M and :latest.
func Normalize(model string) string {
	model = strings.TrimSpace(model)
	if strings.Contains(model, ".anthropic.") || strings.Contains(model, ".claude") {
		if _, rest, ok := strings.Cut(model, "."); ok {
			model = rest
		}
		model = strings.TrimPrefix(model, "anthropic.")
		return bedrockVersion.ReplaceAllString(model, "")
	}
	model = strings.TrimSuffix(model, ":latest")
	return plainVersion.ReplaceAllString(model, "")
}

// Fold makes names equal that differ only in case, in _, - and @ as the
// separator, or in a context marker such as [1m] at the end.
func Fold(model string) string {
	model = contextMarker.ReplaceAllString(strings.TrimSpace(model), "")
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '@' {
			return '-'
		}
		return r
	}, strings.ToLower(model))
}

// Comparable is a model name as allow and deny lists compare it: normalised and
// folded.
func Comparable(model string) string {
	return Fold(Normalize(contextMarker.ReplaceAllString(strings.TrimSpace(model), "")))
}

// spellings are the folded names that a received name may stand under in the
// catalogue, the closest first: as it is, without the provider's path, without
// the Bedrock region, and normalised.
func spellings(model string) []string {
	name := Fold(model)
	found := []string{name}
	add := func(s string) {
		if s != "" && s != found[len(found)-1] {
			found = append(found, s)
		}
	}
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
		add(name)
	}
	name = region.ReplaceAllString(name, "")
	add(name)
	add(Fold(Normalize(name)))
	return found
}

// undated takes a date off the end of a folded name.
func undated(folded string) (base, date string) {
	at := dateSuffix.FindStringIndex(folded)
	if at == nil {
		return folded, ""
	}
	return folded[:at[0]], strings.ReplaceAll(folded[at[0]:], "-", "")
}
