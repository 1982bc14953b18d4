// Draws the page's interactive charts: each when it comes into view, in the page's own colours.
"use strict";
(() => {
  const figures = [...document.querySelectorAll("figure.chart")];
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // The buttons are named one by one: plotly's own choice has one that sends the chart's data to its makers.
  const CONFIG = {
    responsive: true,
    displaylogo: false,
    plotlyServerURL: "",
    modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const [ink, line, card] = ["--ink", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
    return { ink, line, card };
  };

  const axis = (given, { line }) => ({ exponentformat: "none", separatethousands: true, ...given, gridcolor: line, zerolinecolor: line, linecolor: line });

  const themed = (layout) => {
    const found = colours();
    const narrow = innerWidth < 640;
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow ? 11 : 12, color: found.ink },
      margin: { l: 10, r: narrow ? 30 : 60, t: 30, b: 45 },
      hoverlabel: { bgcolor: found.card, bordercolor: found.line, align: "left", font: { color: found.ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: found.line, activecolor: found.ink },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: axis(layout.xaxis, found),
      yaxis: axis(layout.yaxis, found),
    };
  };

  const show = (plot, buttons, index, views) => {
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", String(place === index)));
    return Plotly.relayout(plot, { "xaxis.range": [...views[index].range] });
  };

  const addButtons = (figure, plot, views) => {
    const row = document.createElement("div");
    row.className = "views";
    const buttons = views.map((view, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = view.label;
      button.addEventListener("click", () => show(plot, buttons, index, views));
      button.setAttribute("aria-pressed", String(index === 0));
      row.append(button);
      return button;
    });
    figure.prepend(row);
  };

  const draw = (figure) => {
    watcher.unobserve(figure);
    const plot = figure.querySelector(".plot");
    const { traces, layout, views } = JSON.parse(figure.querySelector("script").textContent);
    if (views.length) {
      layout.xaxis = { ...layout.xaxis, range: [...views[0].range] };
      addButtons(figure, plot, views);
    }
    Plotly.newPlot(plot, traces, themed(layout), CONFIG);
    dark.addEventListener("change", () => Plotly.relayout(plot, themed(plot.layout)));
  };

  const watcher = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "600px" },
  );
  figures.forEach((figure) => watcher.observe(figure));
  // Paper has no view to come into.
  addEventListener("beforeprint", () => figures.filter((figure) => !figure.querySelector(".js-plotly-plot")).forEach(draw));
})();
