// Show the volumes of a report with NiiVue: one base image at a time, faded into another, and one
// overlay at a time. `volumes` comes from vxmlib.scans.viewer.
(async () => {
  const root = document.getElementById("viewer");
  const canvas = root.querySelector("canvas");
  const state = root.querySelector("[role=status]");
  if (!document.createElement("canvas").getContext("webgl2")) {
    state.textContent = "This browser has no WebGL 2, so only the picture below is shown.";
    return;
  }
  const viewer = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    show3Dcrosshair: true,
    crosshairColor: [1, 0.8, 0.2, 0.7],
    loadingText: "",
    dragAndDropEnabled: false,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
  });
  await viewer.attachToCanvas(canvas);
  viewer.opts.isResizeCanvas = true;
  const images = {};
  for (const { name, base64, ...look } of volumes) {
    images[name] = await niivue.NVImage.loadFromBase64({ base64, name: name + ".nii.gz", ...look });
    viewer.addVolume(images[name]);
  }
  const shown = { image: "fixed", overlay: "none", fade: 0.5 };

  function update() {
    const lowest = shown.image === "fade" ? "fixed" : shown.image;
    viewer.setVolume(images[lowest], 0); // the lowest volume gives the head its surface
    const opacity = { [lowest]: 1 };
    if (shown.image === "fade") opacity.registered = shown.fade;
    if (shown.overlay !== "none") opacity[shown.overlay] = 0.6;
    for (const [name, image] of Object.entries(images)) {
      viewer.setOpacity(viewer.volumes.indexOf(image), opacity[name] ?? 0);
    }
    root.querySelector("#fade").disabled = shown.image !== "fade";
  }

  root.querySelectorAll("input[type=radio]").forEach((choice) => {
    choice.addEventListener("change", () => {
      if (choice.name === "planes") viewer.setSliceType(viewer[choice.value]);
      else shown[choice.name] = choice.value;
      update();
    });
  });
  root.querySelector("#fade").addEventListener("input", (event) => {
    shown.fade = Number(event.target.value) / 100;
    update();
  });
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  update();
  root.classList.add("ready");
  state.textContent = "";
})();
