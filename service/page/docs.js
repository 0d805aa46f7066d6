// Begins Swagger UI, where the browser could load it.
"use strict";

if (window.SwaggerUIBundle !== undefined) {
  window.SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null });
}
